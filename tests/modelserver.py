"""A small OpenAI-compatible server over a real socket, whose answers and times a test chooses."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import MISSING, dataclass, field, fields
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support import wait_until


@dataclass
class ModelServer:
    """Answers chats and completions until the block ends.

    Attributes:
        models: the cards that it lists.
        thoughts, pieces: the deltas of each answer, reasoning first.
        first_s, gap_s: time to the first delta, and between two.
        refusals: (status, body) answered to the next requests in place of an answer.
        cut_after: break the stream off after this many deltas.
        fail_after: put an error into the stream after this many deltas.
        usage: whether it counts tokens: one for each delta.
        seen: the bodies of the requests, with their headers.
        gone: answers whose caller left before the end.
        most: the most answers at once.
        stuck: answers that now wait for a pause of ten seconds or more.
    """

    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "m"}])
    thoughts: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=lambda: ["one", " two", " three"])
    first_s: float = 0.0
    gap_s: float = 0.0
    refusals: deque[tuple[int, dict[str, Any]]] = field(default_factory=deque)
    cut_after: int | None = None
    fail_after: int | None = None
    usage: bool = True
    seen: list[tuple[dict[str, Any], dict[str, str]]] = field(default_factory=list)
    gone: int = 0
    most: int = 0
    stuck: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        routes = [
            Route("/v1/models", self._list),
            Route("/v1/chat/completions", self._answer, methods=["POST"]),
            Route("/v1/completions", self._answer, methods=["POST"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), port=0, log_level="critical", lifespan="off", ws="none"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="models")
        self._running = 0

    def reset(self) -> None:
        """Begin anew, for the next test."""
        for one in fields(self):
            if one.name != "url":
                made = one.default_factory
                setattr(self, one.name, one.default if made is MISSING else made())

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies alone."""
        return [body for body, _ in self.seen]

    async def _list(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": self.models})

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append((body, dict(request.headers)))
        if self.refusals:
            status, content = self.refusals.popleft()
            return JSONResponse(content, status)
        deltas = [{"reasoning": one} for one in self.thoughts] + [{"content": one} for one in self.pieces]
        if not body.get("stream"):
            await asyncio.sleep(self.first_s + self.gap_s * (len(deltas) - 1))
            message = {"role": "assistant", "content": "".join(self.pieces)}
            choice = {"index": 0, "message": message, "text": message["content"], "finish_reason": "stop"}
            return JSONResponse({"choices": [choice], "usage": self._usage(len(deltas))})
        return StreamingResponse(
            self._stream(deltas, chat="chat" in request.url.path), media_type="text/event-stream"
        )

    async def _stream(self, deltas: list[dict[str, str]], *, chat: bool) -> AsyncIterator[bytes]:
        whole = False
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            yield _event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
            for at, delta in enumerate(deltas):
                await self._pause(self.gap_s if at else self.first_s)
                if at == self.cut_after:
                    whole = True
                    return
                if at == self.fail_after:
                    yield _event({"error": {"message": "the engine died", "code": "engine_error"}})
                    whole = True
                    return
                choice = {"delta": delta} if chat else {"text": delta["content"]}
                end = "stop" if at == len(deltas) - 1 else None
                yield _event({"choices": [{"index": 0, "finish_reason": end, **choice}]})
            if self.usage:
                yield _event({"choices": [], "usage": self._usage(len(deltas))})
            yield b"data: [DONE]\n\n"
            whole = True
        finally:
            self._running -= 1
            self.gone += not whole

    async def _pause(self, seconds: float) -> None:
        long = seconds >= 10
        self.stuck += long
        try:
            await asyncio.sleep(seconds)
        finally:
            self.stuck -= long

    def _usage(self, tokens: int) -> dict[str, int]:
        return {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started or not self._thread.is_alive())
        assert self._server.started
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()
