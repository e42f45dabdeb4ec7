"""A double of the server: it speaks the HTTP contract over a real socket, and fails on demand."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support import wait_until
from tests.unit.penstock.batch_double import BatchDouble

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


def again(job_id: str) -> str:
    """The id of the job that runs another one again."""
    return job_id.replace("job_", "job_9", 1)


def worker(**fields: Any) -> dict[str, Any]:
    """A worker object of the contract; ``fields`` replace its own."""
    return {
        "object": "worker",
        "id": "cpu@host-7-0a1b2c3d",
        "name": "cpu@host",
        "host": "host",
        "pid": 7,
        "pool": "default",
        "engine": "vllm",
        "device": "auto",
        "models": ["m"],
        "state": "ready",
        "running": 2,
        "capacity": 8,
        "engine_running": 2,
        "engine_waiting": 0,
        "kv_cache_usage": 0.25,
        "started_at": 1795416551.0,
        "metrics_url": "http://127.0.0.1:9100/metrics",
        "a_field_of_the_future": 1,
    } | fields


def pool(**fields: Any) -> dict[str, Any]:
    """A pool object of the contract; ``fields`` replace its own."""
    lanes = ("realtime", "high", "normal", "low", "bulk")
    return {
        "object": "pool",
        "pool": "default",
        "paused": False,
        "running": 2,
        "slots": 8,
        "max_active": None,
        "queued": 1234,
        "mean_run_s": 1.25,
        "mean_bulk_run_s": None,
        "lanes": [
            {
                "lane": lane,
                "queued": 1234 * (lane == "low"),
                "oldest_s": age,
            }
            for lane, age in zip(lanes, (None, None, None, 75.0, None), strict=True)
        ],
        "tenants": [{"tenant": "default", "queued": 1234, "active": 2}],
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
    raw_path: str
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
        faults_of: the same, to every request for a path.
        job: the present state of the one job.
        later: states the job takes at the following GETs.
        jobs: what the list pages through.
        dead: what the list of dead jobs pages through; one that is run again leaves it.
        refused: ids of dead jobs that cannot be run again.
        workers: the live workers; one that is drained is gone once it was listed again.
        pools: their queues, which can be paused and purged; None: a server that is too old to tell.
        events: (id, type, data) of the job, in order.
        cuts: for each connection, how many events it carries before it ends; None: all, and hold.
        abort: end cut connections in mid-air instead of in order.
        bulk: files and batches.
        seen: the requests.
    """

    url: str = ""
    faults: deque[tuple[int, dict[str, str], Any]] = field(default_factory=deque)
    faults_of: dict[str, tuple[int, dict[str, str], Any]] = field(default_factory=dict)
    job: dict[str, Any] = field(default_factory=job)
    later: deque[dict[str, Any]] = field(default_factory=deque)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    dead: list[dict[str, Any]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    workers: list[dict[str, Any]] = field(default_factory=list)
    pools: list[dict[str, Any]] | None = None
    events: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    cuts: deque[int] = field(default_factory=deque)
    abort: bool = True
    ignore_cursor: bool = False
    models: list[str] = field(default_factory=lambda: ["m"])
    bulk: BatchDouble = field(default_factory=BatchDouble)
    seen: list[Seen] = field(default_factory=list)

    def asked(self, path: str) -> list[Seen]:
        """Return the requests of one path."""
        return [request for request in self.seen if request.path == path]

    def happened(self, *texts: str, end: str = "succeeded") -> None:
        """Write a streamed job's life into :attr:`events`."""
        self.events = [("0", "queued", {"state": "queued"}), ("1", "running", {"attempt": 1})]
        self.events += [(str(n), "chunk", chunk(text)) for n, text in enumerate(texts, 2)]
        self.events.append((str(len(self.events)), end, job(state=end)))

    async def handle(self, request: Request) -> Response:  # noqa: C901, PLR0911  # a route table in lines
        """Answer one request."""
        body = await request.body()
        path = request.url.path
        headers = dict(request.headers)
        self.seen.append(
            Seen(
                request.method,
                path,
                request.scope["raw_path"].decode(),
                dict(request.query_params),
                headers,
                body,
                time.monotonic(),
            )
        )
        if self.faults or path in self.faults_of:
            status, extra, content = self.faults.popleft() if self.faults else self.faults_of[path]
            if isinstance(content, str):
                return Response(content, status, extra)
            return JSONResponse(content, status, extra)
        answered = self.bulk.answer(request, body)
        if answered is not None:
            return answered
        if path in {"/v1/models", "/health/ready"}:
            served = {"object": "list", "data": [{"id": name} for name in self.models]}
            ready = {"status": "ready", "checks": {"redis": "ok", "worker": "ok"}}
            return JSONResponse(served if path == "/v1/models" else ready)
        if path.startswith("/v1/queues") and self.pools is not None:
            return self._steer(path, self.pools)
        if path == "/v1/jobs" and request.method == "GET":
            return JSONResponse(self._page(self.jobs, request.query_params))
        if path.startswith(("/v1/dead", "/v1/workers")):
            return self._operate(path, request, json.loads(body or b"null"))
        if path == f"/v1/jobs/{ID}/events":
            return StreamingResponse(
                self._stream(headers.get("last-event-id")), media_type="text/event-stream"
            )
        if path == "/v1/jobs":
            return JSONResponse(self.job, 200 if self.job["state"] == "succeeded" else 202)
        if not path.startswith(f"/v1/jobs/{ID}"):
            return JSONResponse(error("job_not_found"), 404)
        now = job(id=again(ID), retry_of=ID) if path.endswith("/retry") else self.job
        if request.method == "PATCH":
            asked = json.loads(body)
            now["priority"] = asked.get("priority", now["priority"])
            now["position"] = 0 if asked.get("top") else now["position"]
        if self.later and request.method == "GET":
            self.job = self.later.popleft()
        return JSONResponse(now)

    def _steer(self, path: str, pools: list[dict[str, Any]]) -> Response:
        """Answer what is asked about queues; a lane is purged by any other word than pause and resume."""
        _, _, _, *rest = path.split("/")
        if not rest:
            return JSONResponse({"object": "list", "data": pools})
        name, word = rest
        found = [one for one in pools if one["pool"] == name]
        if not found:
            return JSONResponse(error("pool_not_found"), 404)
        if word in {"pause", "resume"}:
            found[0]["paused"] = word == "pause"
            return JSONResponse(found[0])
        (lane,) = (lane for lane in found[0]["lanes"] if lane["lane"] == word)
        purged = {"object": "purged", "pool": name, "lane": word, "cancelled": lane["queued"]}
        lane["queued"] = 0
        return JSONResponse(purged)

    def _operate(self, path: str, request: Request, body: Any) -> Response:
        """Answer what is asked about dead jobs and workers."""
        if path == "/v1/dead":
            return JSONResponse(self._page(self.dead, request.query_params))
        if path == "/v1/dead/retry":
            ids = body.get("ids") or [item["id"] for item in self.dead[: body.get("limit", 100)]]
            self.dead = [item for item in self.dead if item["id"] not in {*ids} - self.refused]
            data = [self._retried(old) for old in ids]
            return JSONResponse({"object": "list", "data": data, "has_more": bool(self.dead)})
        listed = list(self.workers)
        if path == "/v1/workers":
            self.workers = [one for one in self.workers if one["state"] != "draining"]
            return JSONResponse({"object": "list", "data": listed})
        name = path.removeprefix("/v1/workers/").removesuffix("/drain")
        told = [one for one in self.workers if name in {one["name"], one["id"]}]
        if not told:
            return JSONResponse(error("worker_not_found"), 404)
        for one in told:
            one["state"] = "draining"
        return JSONResponse({"object": "list", "data": told}, 202)

    def _retried(self, old: str) -> dict[str, Any]:
        if old in self.refused:
            return {"id": old, "retried_as": None, "error": {"code": "queue_full", "message": "no room"}}
        return {"id": old, "retried_as": again(old), "error": None}

    def _page(self, jobs: list[dict[str, Any]], query: Any) -> dict[str, Any]:
        # The cursor is the last id delivered, as a server's would be: it holds while jobs leave the list.
        ids = [item["id"] for item in jobs]
        after = query.get("after", "")
        first = sum((len(name), name) <= (len(after), after) for name in ids)
        end = first + int(query["limit"])
        more = end < len(jobs)
        return {
            "object": "list",
            "data": jobs[first:end],
            "has_more": more,
            "next_cursor": ids[end - 1] if more else None,
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


class DoubleServer:
    """Serves one double after the other on a free port, in a thread, until the block ends."""

    def __init__(self) -> None:
        self._double: Double | None = None
        routes = [Route("/{path:path}", self._handle, methods=["GET", "POST", "PATCH", "DELETE"])]
        config = uvicorn.Config(
            Starlette(routes=routes), port=0, log_level="critical", lifespan="off", ws="none"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="double")

    async def _handle(self, request: Request) -> Response:
        if self._double is None:  # a client of a test that is over
            return Response(status_code=503)
        return await self._double.handle(request)

    @contextmanager
    def serving(self) -> Iterator[Double]:
        """Make a double and answer with it while the block runs."""
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self._double = Double(url=f"http://127.0.0.1:{port}")
        try:
            yield self._double
        finally:
            self._double = None

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started or not self._thread.is_alive())
        assert self._server.started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
