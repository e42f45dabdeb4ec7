"""A double of the server: it speaks the HTTP contract over a real socket, and fails on demand."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

ID = "job_" + "0" * 31 + "1"


def job(**fields: Any) -> dict[str, Any]:
    """A job object of the contract; ``fields`` replace its own."""
    return {
        "id": ID,
        "object": "job",
        "state": "queued",
        "endpoint": "/v1/chat/completions",
        "model": "m",
        "priority": "normal",
        "stream": True,
        "metadata": {},
        "attempt": 0,
        "max_attempts": 3,
        "position": 0,
        "created_at": 1795416551.123,
        "expires_at": None,
        "timings": {"queued_at": 1795416551.123, "queue_ms": 7, "total_ms": 777, "tokens_per_s": 41.5},
        "usage": {"prompt_tokens": 12, "completion_tokens": 32, "total_tokens": 44},
        "error": None,
        "cancel_requested": False,
        "worker": None,
        "history": [],
        "links": {},
        "result": None,
        "a_field_of_the_future": 1,
    } | fields


def answer(text: str) -> dict[str, Any]:
    """A raw chat completion."""
    return {"object": "chat.completion", "choices": [{"index": 0, "message": {"content": text}}]}


def chunk(text: str) -> dict[str, Any]:
    """A raw chat stream chunk."""
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}


def error(code: str, message: str = "no", **fields: Any) -> dict[str, Any]:
    """An OpenAI error body."""
    return {"error": {"message": message, "type": "t", "param": None, "code": code} | fields}


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at: float


class _CutError(Exception):
    """Ends a response without its last chunk, as a dying server does."""


@dataclass
class Double:
    """The server's script and its diary.

    Attributes:
        faults: (status, headers, body) answered to the next requests in place of what they ask for.
        job: the present state of the one job.
        later: states the job takes at the following GETs.
        jobs: what the list pages through.
        events: (id, type, data) of the job, in order.
        cuts: for each connection, how many events it carries before it ends; None: all, and hold.
        abort: end cut connections in mid-air instead of in order.
        seen: the requests.
    """

    url: str = ""
    faults: deque[tuple[int, dict[str, str], Any]] = field(default_factory=deque)
    job: dict[str, Any] = field(default_factory=job)
    later: deque[dict[str, Any]] = field(default_factory=deque)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    events: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    cuts: deque[int] = field(default_factory=deque)
    abort: bool = True
    ignore_cursor: bool = False
    models: list[str] = field(default_factory=lambda: ["m"])
    seen: list[Seen] = field(default_factory=list)

    def asked(self, path: str) -> list[Seen]:
        """Return the requests of one path."""
        return [request for request in self.seen if request.path == path]

    def happened(self, *texts: str, end: str = "succeeded") -> None:
        """Write a streamed job's life into :attr:`events`."""
        self.events = [("0", "queued", {"state": "queued"}), ("1", "running", {"attempt": 1})]
        self.events += [(str(n), "chunk", chunk(text)) for n, text in enumerate(texts, 2)]
        self.events.append((str(len(self.events)), end, job(state=end)))

    async def handle(self, request: Request) -> Response:  # noqa: PLR0911  # a route table in lines
        """Answer one request."""
        body = await request.body()
        path = request.url.path
        headers = dict(request.headers)
        self.seen.append(
            Seen(request.method, path, dict(request.query_params), headers, body, time.monotonic())
        )
        if self.faults:
            status, extra, content = self.faults.popleft()
            if isinstance(content, str):
                return Response(content, status, extra)
            return JSONResponse(content, status, extra)
        if path == "/v1/models":
            return JSONResponse({"object": "list", "data": [{"id": name} for name in self.models]})
        if path == "/health/ready":
            return JSONResponse({"status": "ready", "checks": {"redis": "ok", "worker": "ok"}})
        if path == "/v1/jobs" and request.method == "GET":
            return JSONResponse(self._page(request.query_params))
        if path.endswith("/events"):
            return StreamingResponse(
                self._stream(headers.get("last-event-id")), media_type="text/event-stream"
            )
        if path == "/v1/jobs":
            return JSONResponse(self.job, 200 if self.job["state"] == "succeeded" else 202)
        if not path.startswith(f"/v1/jobs/{ID}"):
            return JSONResponse(error("job_not_found"), 404)
        now = self.job
        if self.later and request.method == "GET":
            self.job = self.later.popleft()
        return JSONResponse(now)

    def _page(self, query: Any) -> dict[str, Any]:
        first = int(query.get("after", 0))
        end = first + int(query["limit"])
        more = end < len(self.jobs)
        return {
            "object": "list",
            "data": self.jobs[first:end],
            "has_more": more,
            "next_cursor": str(end) if more else None,
        }

    async def _stream(self, last_id: str | None) -> AsyncIterator[bytes]:
        start = 0 if last_id is None or self.ignore_cursor else int(last_id) + 1
        cut = self.cuts.popleft() if self.cuts else None
        yield b": ping\n\n" if cut is None else b"retry: 1\n\n"
        for place, (event_id, kind, data) in enumerate(self.events[start:]):
            frame = f"id: {event_id}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()
            if place == cut:
                if self.abort:
                    yield frame[: len(frame) // 2]
                    raise _CutError
                return
            yield frame


@contextmanager
def serving() -> Iterator[Double]:
    """Serve a double on a free port, in a thread."""
    double = Double()
    routes = [Route("/{path:path}", double.handle, methods=["GET", "POST"])]
    config = uvicorn.Config(Starlette(routes=routes), port=0, log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        double.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield double
    finally:
        server.should_exit = True
        thread.join()
