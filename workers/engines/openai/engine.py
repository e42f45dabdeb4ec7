"""Any OpenAI-compatible server over HTTP: a ``vllm serve`` container, SGLang, llama.cpp, Ollama."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import structlog

from jobs.endpoints import CHAT, ENDPOINTS
from jobs.facts import EnginePriority, EngineStats
from workers.engines.base import (
    AdapterBrokenError,
    Emit,
    EngineDeadError,
    EngineRequest,
    EngineStartError,
    Final,
    ModelInfo,
    ReloadRefusedError,
)
from workers.engines.counting import count_prompts, read_count
from workers.engines.events_stream import relay_events
from workers.engines.full_stream import relay, whole
from workers.engines.openai.body import Given, prepare
from workers.engines.openai.models import models_of
from workers.engines.openai.priority import PROBE_ID, PriorityField, blames_priority, learn_field
from workers.engines.priority import report_priority, with_priority
from workers.engines.salt import blames_salt, with_salt
from workers.engines.settings import OpenAISettings
from workers.engines.speech import form_for, spoken, streamed_answer, text_answer

log = structlog.get_logger(__name__)

_GONE = frozenset({502, 503, 504})
"""Statuses of a proxy without a server, or of a server that still loads."""

_NO_SERVER = (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError, LookupError, TypeError)
"""What comes of asking for the models where no OpenAI-compatible server is."""

_SILENT_S = 60.0
"""Seconds without a word from a server that takes connections and has none of our requests, after which it is gone."""

_encode = msgspec.json.Encoder().encode


class OpenAIEngine:
    """The engine ``openai``; see :class:`workers.engines.base.Engine`.

    The server learns the job's id as ``X-Request-Id``; one that does not know this header gives its own response ids. It
    learns the job's priority as ``X-Vllm-Priority`` and as ``priority`` in the body, the latter unless it refuses it. So it
    does the tenant's ``cache_salt``.
    """

    name = "openai"
    in_process = False

    def __init__(self, settings: OpenAISettings) -> None:
        self._settings = settings
        base = settings.base_url.rstrip("/")
        self._base = base.removesuffix("/v1")
        self._http: aiohttp.ClientSession | None = None
        self._models: tuple[ModelInfo, ...] = ()
        self._priority = PriorityField()
        self._salted = True
        self._running = 0
        self._heard_s = 0.0
        self._streams: dict[str, Any] = {}

    async def start(self) -> None:
        """See the Protocol."""
        settings = self._settings
        headers = {"Content-Type": "application/json"}
        if settings.api_key is not None:
            headers["Authorization"] = f"Bearer {settings.api_key}"
        self._http = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=settings.connect_timeout_s, sock_read=settings.read_timeout_s
            ),
        )
        try:
            answer = await self._get("/v1/models", settings.start_timeout_s)
            self._models = models_of(settings, *answer)
            self._priority = await learn_field(self._ask, self._models[0].name, settings.endpoints)
        except BaseException as error:  # a cancelled start, too, leaves nothing open
            await self.stop()
            if not isinstance(error, _NO_SERVER):
                raise
            why = str(error) or type(error).__name__
            msg = f"no OpenAI-compatible server answers at {settings.base_url}: {why}"
            raise EngineStartError(msg) from error

    async def _get(self, path: str, timeout_s: float) -> tuple[int, bytes]:
        async with asyncio.timeout(timeout_s), self._client().get(self._base + path) as response:
            body = await response.read()
        self._heard_s = time.monotonic()
        return response.status, body

    async def _ask(self, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        if body is None:
            return await self._get(path, self._settings.start_timeout_s)
        headers = {"X-Request-Id": PROBE_ID}
        async with self._client().post(self._base + path, data=_encode(body), headers=headers) as response:
            return response.status, await response.read()

    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise EngineDeadError("the engine is stopped")
        return self._http

    def models(self) -> tuple[ModelInfo, ...]:
        """See the Protocol."""
        return self._models

    def capacity(self) -> int:
        """See the Protocol."""
        return self._settings.capacity

    def holds_bulk(self) -> bool:
        """See the Protocol."""
        return False  # its server may know nothing of lanes

    def priority(self) -> EnginePriority:
        """See the Protocol."""
        return self._priority.state

    async def run(self, request: EngineRequest, emit: Emit) -> Final:
        """See the Protocol."""
        given = Given(self._priority.value(request.priority), request.tenant if self._salted else None)
        refused: list[Given] = []
        self._running += 1
        try:
            with self._reaching():
                while isinstance(final := await self._send(request, emit, given), Given):
                    refused.append(given)
                    given = final
                if refused and final.status < 400:  # so it was the field, and no word of the client's
                    self._leave_out(refused[0], given)
                return final
        finally:
            self._running -= 1
            self._streams.pop(request.id, None)

    def _leave_out(self, before: Given, after: Given) -> None:
        """Leave fields out from now on: the server was changed since the start, or the start did not find it out."""
        if before.priority != after.priority and self._priority.state is not EnginePriority.REFUSED:
            self._priority = PriorityField(EnginePriority.REFUSED)
            report_priority(self.name, self._priority.state)
        if before.salt_for != after.salt_for and self._salted:
            self._salted = False
            log.warning("engine_salt_refused", engine=self.name)

    async def _send(self, request: EngineRequest, emit: Emit, given: Given) -> Final | Given:
        """Send the request with these fields in its body.

        Returns:
            The end of the run; or the fields to send instead, as the server seems to refuse one, and nothing was emitted.
        """
        headers = {"X-Request-Id": request.id, "X-Vllm-Priority": str(request.priority), **request.trace}
        asked, ours, hide_usage = None, False, True
        if request.upload is None:
            raw, hide_usage = prepare(request)
            body, ours = with_salt(with_priority(raw, given.priority), given.salt_for)
        else:
            form, asked = form_for(request, request.upload)
            body, headers["Content-Type"] = form.body, form.content_type
        # Leaving the block early closes the connection, by which the server knows to abort.
        url = self._base + ENDPOINTS[request.endpoint].served_at
        async with self._client().post(url, data=body, headers=headers) as response:
            self._heard_s = time.monotonic()
            status = response.status
            streamed = response.content_type == "text/event-stream"
            if not streamed or status in _GONE:
                answer = await response.read()
                if given.priority is not None and blames_priority(status, answer):
                    return replace(given, priority=None)
                if ours and blames_salt(status, answer):  # with a salt of its own the client gets the refusal
                    return replace(given, salt_for=None)
                if status in _GONE:
                    raise EngineDeadError(f"{self._settings.base_url} answers with status {status}")
                return whole(status, answer) if request.upload is None else spoken(status, answer, asked)
            self._streams[request.id] = response

            def stopped() -> bool:
                return request.id not in self._streams

            parts, path = self._parts(response, stopped), request.endpoint
            if ENDPOINTS[path].streams == "events":
                return await relay_events(parts, emit, path, stopped=stopped)
            chat = path == CHAT or request.upload is not None
            end = await relay(parts, emit, chat=chat, hide_usage=hide_usage, stopped=stopped)
            return end if request.upload is None else text_answer(streamed_answer(end), asked)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn a failed connection into the engine's death."""
        try:
            yield
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            msg = f"{self._settings.base_url} cannot be reached: {str(error) or type(error).__name__}"
            raise EngineDeadError(msg) from error

    async def _parts(self, response: Any, stopped: Callable[[], bool]) -> AsyncIterator[bytes]:
        try:
            async for part in response.content.iter_any():
                self._heard_s = time.monotonic()
                yield part
        except aiohttp.ClientError:
            if not stopped():
                raise

    async def abort(self, request_id: str) -> None:
        """See the Protocol. Only a stream has a part to return."""
        if response := self._streams.pop(request_id, None):
            response.close()

    async def count(self, endpoint: str, body: bytes, priority: int = 0) -> int | None:
        """See the Protocol. vLLM's server can; one without a ``/tokenize`` like vLLM's cannot."""
        with self._reaching():
            return await count_prompts(self._tokenize, endpoint, body)

    async def _tokenize(self, path: str, question: dict[str, Any]) -> int | None:
        async with (
            asyncio.timeout(self._settings.start_timeout_s),
            self._client().post(self._base + path, data=_encode(question)) as response,
        ):
            return read_count(response.status, await response.read())

    async def load_adapter(self, name: str, folder: Path) -> None:
        """See the Protocol."""
        del folder
        raise AdapterBrokenError(f"the server behind this worker loads its own adapters: load {name!r} there")

    async def unload_adapter(self, folder: Path) -> None:
        """See the Protocol."""

    def adapters(self) -> frozenset[Path]:
        """See the Protocol."""
        return frozenset()

    def stats(self) -> EngineStats:
        """See the Protocol. The server's queue is not visible: only requests in flight are known."""
        return EngineStats(running=self._running)

    def progress(self) -> float | None:
        """See the Protocol. The server's steps are not visible."""
        return None

    async def check(self) -> None:
        """See the Protocol. A server that takes the connection and answers late is busy, until it is silent too long."""
        with self._reaching():
            try:
                status, _ = await self._get("/v1/models", self._settings.start_timeout_s)
            except TimeoutError as error:
                if isinstance(error, aiohttp.ClientError) or self._silent_s() > self._patience_s():
                    raise
                return
        if status >= 500:
            raise EngineDeadError(f"{self._settings.base_url} answers with status {status}")

    def _silent_s(self) -> float:
        return time.monotonic() - self._heard_s

    def _patience_s(self) -> float:
        """Return how long the server may be silent. One that serves a request at a time says nothing beside it."""
        return max(_SILENT_S, self._settings.read_timeout_s) if self._running else _SILENT_S

    async def sleep(self) -> None:
        """See the Protocol. Its server decides what is on the devices."""

    async def check_weights(self, model: str) -> None:
        """See the Protocol."""
        raise ReloadRefusedError(f"the weights of another server cannot be replaced by those of {model} here")

    async def reload(self, model: str) -> None:
        """See the Protocol."""
        await self.check_weights(model)

    async def wake(self) -> None:
        """See the Protocol."""

    async def stop(self) -> None:
        """See the Protocol. The server itself goes on running."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()
