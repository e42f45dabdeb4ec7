"""The simulated engine: deterministic texts and timing, for load and fault tests. Its model card says so."""

from __future__ import annotations

import asyncio
import time
import zlib
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from jobs.capabilities import Capabilities
from jobs.endpoints import CHAT, CLASSIFY, EMBEDDINGS, ENDPOINTS, MESSAGES, POOLING, RESPONSES
from jobs.facts import EnginePriority, EngineStats
from jobs.model import Usage
from monitoring import failpoints
from workers.engines.base import Emit, EngineDeadError, EngineRequest, Final, ModelInfo, ReloadRefusedError
from workers.engines.settings import SimulatedSettings
from workers.engines.simulated import event_shapes, shapes
from workers.engines.simulated.adapters import SimulatedAdapters
from workers.engines.simulated.journal import Journal
from workers.engines.simulated.places import Places
from workers.engines.simulated.pooled import Pooled, RefusedError
from workers.engines.simulated.request import Body, inputs_of, read_body, token_count
from workers.engines.simulated.voice import Voice

_ABLE = Capabilities(tasks=("generate", "embed", "classify", "score"), tool_parser="simulated")
"""It looks at no image, schema or tool, and refuses none: so it does not say how many it takes."""

_POOLED = (EMBEDDINGS, CLASSIFY, POOLING)

_DEAD = "the engine is stopped"
_DIED = "a simulated death"
_ASLEEP = "the engine sleeps"

_encode = msgspec.json.Encoder().encode


class SimulatedEngine:
    """The engine ``simulated``; see :class:`workers.engines.base.Engine`.

    The same prompt, token limit and seed give the same text, streamed or not. For fault tests a request may carry a field
    ``simulate``: ``die`` (the engine dies under it), ``hang`` (it takes no step any more), ``interrupt`` (its code is
    cancelled, and nobody asked for it), ``error`` (status 500) or ``error_once`` (the first time here).
    """

    name = "simulated"
    in_process = True

    def __init__(self, settings: SimulatedSettings) -> None:
        self._settings = settings
        self._places = Places(settings.capacity)
        self._voice = Voice(settings)
        self._stops: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._failed: set[str] = set()
        self._pooled = Pooled(settings)
        self._adapters = SimulatedAdapters(settings.adapters, settings.adapter_max_rank)
        self._journal = Journal(settings.journal_path)
        self._alive = self._asleep = False
        self._hung_s: float | None = None

    async def start(self) -> None:
        """See the Protocol."""
        self._journal.open()
        self._alive = True

    def models(self) -> tuple[ModelInfo, ...]:
        """See the Protocol."""
        name, limit = self._settings.model, self._settings.max_model_len
        card = {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "penstock",
            "simulated": True,
            "description": "Simulated: pretends to generate; for load and fault tests.",
            "max_model_len": limit,
        }
        endpoints = tuple(ENDPOINTS)
        able = replace(_ABLE, adapters=self._settings.adapters, adapter_rank=self._settings.adapter_max_rank)
        return (ModelInfo(name, card, endpoints, limit, max_output_tokens=limit, capabilities=able),)

    def capacity(self) -> int:
        """See the Protocol."""
        return self._settings.capacity

    def holds_bulk(self) -> bool:
        """See the Protocol."""
        return False  # its slots are for whoever comes

    def priority(self) -> EnginePriority:
        """See the Protocol."""
        return EnginePriority.WORKS

    async def run(self, request: EngineRequest, emit: Emit) -> Final:
        """See the Protocol."""
        await self.check()
        if self._asleep:
            raise EngineDeadError(_ASLEEP, reached=False)
        self._journal.write(request, "start")
        stop = self._stops[request.id] = asyncio.Event()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._tasks[request.id] = task
        try:
            await self._places.acquire(request.priority)
            try:
                final = await self._answer(request, emit, stop)
            finally:
                self._places.release()
        except asyncio.CancelledError:
            self._journal.write(request, "abort")
            if request.id not in self._tasks:  # see _fault
                task.uncancel()
                raise EngineDeadError(_DIED) from None
            raise
        finally:
            del self._stops[request.id]
            self._tasks.pop(request.id, None)
        self._journal.write(request, "abort" if stop.is_set() else "end")
        return final

    async def abort(self, request_id: str) -> None:
        """See the Protocol."""
        if stop := self._stops.get(request_id):
            stop.set()

    async def _answer(self, request: EngineRequest, emit: Emit, stop: asyncio.Event) -> Final:
        try:
            body = read_body(request.body)
        except msgspec.DecodeError as error:
            return _refuse(400, f"cannot read the request: {error}")
        self._perhaps_die(request.id)
        if body.simulate == "interrupt":
            raise asyncio.CancelledError
        if body.simulate == "hang":
            self._hung_s = time.monotonic()
            await asyncio.Event().wait()
        if body.simulate is not None and (fault := self._fault(request.id, body.simulate)):
            return fault
        name = self._name_for(request)
        if request.adapter is None and body.model not in (None, name):
            return _refuse(404, f"The model `{body.model}` does not exist.", "NotFoundError", "model")
        if self._pooled.answers(request.endpoint):
            return await self._pool(request)
        return await self._complete(request, body, emit, stop)

    async def _complete(self, request: EngineRequest, body: Body, emit: Emit, stop: asyncio.Event) -> Final:
        settings = self._settings
        endpoint = request.endpoint
        asked, prompt = body.asked(endpoint), body.prompt_of(endpoint)
        count = settings.tokens if asked is None else asked
        prompt_tokens, limit = token_count(prompt), settings.max_model_len
        if not prompt or count < 1 or (body.n or 1) != 1:
            return _refuse(
                400, "the prompt must not be missing, max_tokens must be at least 1 and n must be 1"
            )
        if prompt_tokens >= limit or count > limit:  # vLLM's rule, see counting.py
            return _refuse(400, f"This model's maximum context length is {limit} tokens.")
        count = min(count, limit - prompt_tokens)
        words = self._voice.words(
            prompt + (b"" if request.adapter is None else request.adapter.name.encode()), count
        )
        shape = self._shape(request, body, prompt_tokens)
        if request.stream:
            said = await self._voice.stream(emit, words, shape, stop, prompt_tokens)
        else:
            said = await self._voice.generate(count, stop)
        usage = Usage(prompt_tokens, said, prompt_tokens + said)
        reason = "abort" if stop.is_set() else "length"
        return Final(200, shape.whole("".join(words[:said]), usage, reason), usage)

    def _shape(self, request: EngineRequest, body: Body, prompt_tokens: int) -> shapes.Shape:
        model, created = self._name_for(request), int(time.time())
        ident = ENDPOINTS[request.endpoint].response_id.format(request.id)
        if request.endpoint == RESPONSES:
            return event_shapes.Response(request.id, created, model, msgspec.json.decode(request.body))
        if request.endpoint == MESSAGES:
            return event_shapes.Message(ident, model, prompt_tokens)
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        chat = request.endpoint == CHAT
        return shapes.Chunks(ident, created, model, chat=chat, with_usage=with_usage)

    def _name_for(self, request: EngineRequest) -> str:
        try:
            return self._adapters.use(request.adapter, self._settings.model)
        except EngineDeadError:
            self._fault(request.id, "die")
            raise

    def _fault(self, request_id: str, kind: str) -> Final | None:
        if kind == "die":
            self._alive = False
            del self._tasks[request_id]
            victims, self._tasks = self._tasks, {}
            for task in victims.values():
                task.cancel()
            raise EngineDeadError(_DIED)
        if kind == "error" or (kind == "error_once" and request_id not in self._failed):
            self._failed.add(request_id)
            return _refuse(500, "a simulated error", "InternalServerError")
        return None

    def _perhaps_die(self, request_id: str) -> None:
        try:
            failpoints.hit("engine.run")
        except failpoints.FailpointReachedError:
            self._fault(request_id, "die")

    async def _pool(self, request: EngineRequest) -> Final:
        if self._settings.ttft_s:
            await asyncio.sleep(self._settings.ttft_s)
        try:
            answer, usage = self._pooled.answer(request.endpoint, request.id, request.body)
        except (RefusedError, msgspec.DecodeError) as error:
            return _refuse(400, str(error))
        return Final(200, answer, usage)

    async def count(self, endpoint: str, body: bytes, priority: int = 0) -> int | None:
        """See the Protocol."""
        await self.check()
        if ENDPOINTS[endpoint].pairs or ENDPOINTS[endpoint].tokenizer_only:
            return None
        try:
            request = read_body(body)
            if endpoint not in _POOLED:
                return token_count(request.prompt_of(endpoint))
            return max(token_count(_encode(item)) for item in inputs_of(msgspec.json.decode(request.input)))
        except (msgspec.DecodeError, ValueError, LookupError):
            return None  # no request that it would run

    async def load_adapter(self, name: str, folder: Path) -> None:
        """See the Protocol."""
        await self.check()
        await self._adapters.load(name, folder)

    async def unload_adapter(self, folder: Path) -> None:
        """See the Protocol."""
        await self.check()
        self._adapters.unload(folder)

    def adapters(self) -> frozenset[Path]:
        """See the Protocol."""
        return self._adapters.folders()

    def stats(self) -> EngineStats:
        """See the Protocol."""
        running = self._places.taken
        usage = running / self._settings.capacity
        return EngineStats(running, self._places.waiting, usage, generated=self._voice.generated)

    def progress(self) -> float | None:
        """See the Protocol. Its steps are those of the clock, until it hangs."""
        if not self._places.taken:
            return None
        return time.monotonic() if self._hung_s is None else self._hung_s

    async def check(self) -> None:
        """See the Protocol."""
        if not self._alive:
            raise EngineDeadError(_DEAD, reached=False)

    async def sleep(self) -> None:
        """See the Protocol. Nothing is freed, as it has nothing."""
        await self.check()
        self._asleep = True

    async def check_weights(self, model: str) -> None:
        """See the Protocol. A model whose name ends in ``-unlike`` has other shapes."""
        if model.endswith("-unlike"):
            raise ReloadRefusedError(f"the weights of {model} have other shapes")

    async def reload(self, model: str) -> None:
        """See the Protocol."""
        await self.check()
        self._voice.seed = 0 if model == self._settings.model else zlib.crc32(model.encode())

    async def wake(self) -> None:
        """See the Protocol. It takes the time that its settings say."""
        if self._asleep:
            await asyncio.sleep(self._settings.wake_s)
            self._asleep = False

    async def stop(self) -> None:
        """See the Protocol."""
        self._alive = False
        self._journal.close()


def _refuse(status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Final:
    error = {"message": message, "type": kind, "param": param, "code": status}
    return Final(status, _encode({"error": error}), None)
