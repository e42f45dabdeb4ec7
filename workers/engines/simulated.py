"""An engine that only pretends: deterministic texts and timing, for load and fault tests. It says what it
is.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import os
import struct
import time
from typing import Any

import msgspec

from jobs.chunks import Text
from jobs.model import Usage
from workers.engines import simulated_shapes as shapes
from workers.engines.base import Emit, EngineDeadError, EngineRequest, EngineStats, Final, ModelInfo
from workers.engines.settings import SimulatedSettings

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"

MAX_MODEL_LEN = 32768
"""Context length it claims, in tokens."""

_TEXT = """
water falls through the gate and turns a wheel that lights every window in town while rain fills lakes
above valley walls so nobody waits long for power or bread at night when rivers run low engines hum
"""

_WORDS = tuple(f" {word}" for word in _TEXT.split())


_NOTHING = frozenset({b"", b"null", b"[]"})


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Body(msgspec.Struct):
    """What it reads of a request; the rest is ignored."""

    model: str | None = None
    messages: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    stream_options: _StreamOptions | None = None
    encoding_format: str = "float"


_decode = msgspec.json.Decoder(_Body).decode
_encode = msgspec.json.Encoder().encode


class SimulatedEngine:
    """The engine ``simulated``; see :class:`workers.engines.base.Engine`.

    The same prompt, token limit and seed give the same text, streamed or not.
    """

    name = "simulated"

    def __init__(self, settings: SimulatedSettings) -> None:
        self._settings = settings
        self._running = 0
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._journal: int | None = None
        self._alive = False

    async def start(self) -> None:
        """See the Protocol."""
        path = self._settings.journal_path
        if path is not None and self._journal is None:
            self._journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._alive = True

    def models(self) -> tuple[ModelInfo, ...]:
        """See the Protocol."""
        name = self._settings.model
        card = {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "penstock",
            "simulated": True,
            "description": "Simulated: pretends to generate; for load and fault tests.",
            "max_model_len": MAX_MODEL_LEN,
        }
        return (ModelInfo(name, card, (CHAT, COMPLETIONS, EMBEDDINGS), MAX_MODEL_LEN),)

    def capacity(self) -> int:
        """See the Protocol."""
        return self._settings.capacity

    async def run(self, request: EngineRequest, emit: Emit) -> Final:
        """See the Protocol."""
        await self.check()
        self._write(request, "start")
        try:
            await self._enter(request.priority)
            try:
                final = await self._answer(request, emit)
            finally:
                self._leave()
        except asyncio.CancelledError:
            self._write(request, "abort")
            raise
        self._write(request, "end")
        return final

    async def _enter(self, priority: int) -> None:
        """Take a place in the batch, the smallest priority first, then first come first served."""
        if self._running < self._settings.capacity:
            self._running += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (priority, next(self._order), place)
        heapq.heappush(self._waiters, entry)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()  # the place was given in the same moment
            else:
                self._waiters.remove(entry)
                heapq.heapify(self._waiters)
            raise

    def _leave(self) -> None:
        """Give the place to the next, or free it."""
        while self._waiters:
            place = heapq.heappop(self._waiters)[2]
            if not place.done():
                place.set_result(None)
                return
        self._running -= 1

    async def _answer(self, request: EngineRequest, emit: Emit) -> Final:
        settings = self._settings
        try:
            body = _decode(request.body)
        except msgspec.DecodeError as error:
            return _refuse(400, f"cannot read the request: {error}")
        if body.model is not None and body.model != settings.model:
            return _refuse(404, f"The model `{body.model}` does not exist.", "NotFoundError", "model")
        if request.endpoint == EMBEDDINGS:
            return await self._embed(body)
        chat = request.endpoint == CHAT
        asked = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        count = settings.tokens if asked is None else asked
        prompt_bytes = bytes(body.messages if chat else body.prompt)
        prompt_tokens = max(1, len(prompt_bytes) // 4)
        if prompt_bytes in _NOTHING or count < 1 or (body.n or 1) != 1:
            return _refuse(
                400, "the prompt must not be missing, max_tokens must be at least 1 and n must be 1"
            )
        if prompt_tokens + count > MAX_MODEL_LEN:
            return _refuse(400, f"This model's maximum context length is {MAX_MODEL_LEN} tokens.")
        usage = Usage(prompt_tokens, count, prompt_tokens + count)
        ident = ("chatcmpl-" if chat else "cmpl-") + request.id
        created = int(time.time())
        words = self._words(prompt_bytes, count)
        if request.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            await self._stream(
                emit,
                words,
                shapes.StreamShape(ident, created, settings.model, chat=chat),
                usage if with_usage else None,
            )
        elif settings.ttft_s or settings.inter_token_s:
            await asyncio.sleep(settings.ttft_s + settings.inter_token_s * (count - 1))
        return Final(
            200, shapes.whole(ident, created, settings.model, "".join(words), usage, chat=chat), usage
        )

    def _words(self, prompt: bytes, count: int) -> list[str]:
        digest = hashlib.blake2b(prompt + b"%d" % self._settings.seed, digest_size=4).digest()
        start = int.from_bytes(digest, "little")
        step, size = 1 + start % 7, len(_WORDS)
        return [_WORDS[(start + step * place) % size] for place in range(count)]

    async def _stream(
        self, emit: Emit, words: list[str], shape: shapes.StreamShape, usage: Usage | None
    ) -> None:
        settings = self._settings
        if settings.ttft_s:
            await asyncio.sleep(settings.ttft_s)
        emit(shape.head())
        for place, word in enumerate(words):
            if place and settings.inter_token_s:
                await asyncio.sleep(settings.inter_token_s)
            if place < len(words) - 1:
                emit(Text(word))
        emit(shape.tail(words[-1], usage))

    async def _embed(self, body: _Body) -> Final:
        given = msgspec.json.decode(body.input) if body.input else None
        if not isinstance(given, str | list) or not given:
            return _refuse(400, "input must be a string or a list that is not empty")
        if self._settings.ttft_s:
            await asyncio.sleep(self._settings.ttft_s)
        items: list[Any] = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        model, vectors = self._settings.model, [self._vector(_encode(item)) for item in items]
        tokens = sum(max(1, len(_encode(item)) // 4) for item in items)
        body64 = body.encoding_format == "base64"
        return Final(200, shapes.embeddings(model, vectors, tokens, base64=body64), Usage(tokens, 0, tokens))

    def _vector(self, item: bytes) -> list[float]:
        """Return a unit vector that depends on the input and the seed only."""
        dim = self._settings.embedding_dim
        raw = hashlib.shake_128(item + b"%d" % self._settings.seed).digest(2 * dim)
        values = [number / 32768.0 for number in struct.unpack(f"<{dim}h", raw)]
        length = sum(value * value for value in values) ** 0.5 or 1.0
        return [value / length for value in values]

    def stats(self) -> EngineStats:
        """See the Protocol."""
        return EngineStats(self._running, len(self._waiters), self._running / self._settings.capacity)

    async def check(self) -> None:
        """See the Protocol."""
        if not self._alive:
            msg = "the engine is stopped"
            raise EngineDeadError(msg)

    async def stop(self) -> None:
        """See the Protocol."""
        self._alive = False
        journal, self._journal = self._journal, None
        if journal is not None:
            os.close(journal)

    def _write(self, request: EngineRequest, event: str) -> None:
        if self._journal is not None:
            line = {
                "job": request.id,
                "event": event,
                "time_ms": time.time_ns() // 1_000_000,
                "pid": os.getpid(),
            }
            os.write(self._journal, _encode(line) + b"\n")


def _refuse(status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Final:
    error = {"message": message, "type": kind, "param": param, "code": status}
    return Final(status, _encode({"error": error}), None)
