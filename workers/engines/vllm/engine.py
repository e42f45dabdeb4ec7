"""vLLM in this process: its engine client, its OpenAI app, and its engine core in a process of its own (ADR 0013).

It is started by :mod:`.boot`. Requests are served by vLLM's own endpoint functions; plain streams are taken as deltas
(:mod:`.tap`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from jobs.capabilities import Capabilities
from jobs.endpoints import CHAT, ENDPOINTS, RESPONSES
from jobs.facts import EnginePriority, EngineStats
from workers.engines.base import (
    AdapterBrokenError,
    Emit,
    EngineDeadError,
    EngineRequest,
    EngineStartError,
    Final,
    ModelInfo,
)
from workers.engines.counting import count_prompts, read_count
from workers.engines.events_assemble import ended_early
from workers.engines.events_stream import relay_events
from workers.engines.full_stream import relay, whole
from workers.engines.priority import with_priority
from workers.engines.salt import salted, with_salt
from workers.engines.settings import VllmSettings
from workers.engines.vllm import aborts, lanes, refusals, reloading, wire
from workers.engines.vllm.adapters import VllmAdapters
from workers.engines.vllm.boot import FrontBoot, Learned, join, load, make_app, mend, slots
from workers.engines.vllm.bulk_front import BulkFront
from workers.engines.vllm.compact_streams import CompactStreams, chats_stream, is_harmony
from workers.engines.vllm.held_outputs import holds_outputs
from workers.engines.vllm.hub import check_reachable
from workers.engines.vllm.inner_app import Endpoint, Headers, InvalidBodyError, call_app
from workers.engines.vllm.introduction import Started, introduce
from workers.engines.vllm.lane_report import LaneReport
from workers.engines.vllm.leash import Leash
from workers.engines.vllm.rendering import Way, in_order_of
from workers.engines.vllm.request_ids import of_job
from workers.engines.vllm.scratch import Sockets
from workers.engines.vllm.sleeping import Sleep
from workers.engines.vllm.speech import run_form
from workers.engines.vllm.start_errors import explain
from workers.engines.vllm.start_hints import check_format
from workers.engines.vllm.steps import Steps

_encode = msgspec.json.Encoder().encode


class VllmEngine:
    """The engine ``vllm``; see :class:`workers.engines.base.Engine`."""

    name = "vllm"
    in_process = True

    def __init__(self, settings: VllmSettings) -> None:
        self._settings = settings
        self._llm: Any = None
        self._close_media: Callable[[], Awaitable[None]] | None = None
        self._app: Any = None
        self._leash: Leash | None = None
        self._sockets: Sockets | None = None
        self._endpoints: dict[str, Endpoint] = {}
        self._compact = CompactStreams()
        self._aborted: set[str] = set()
        self._models: tuple[ModelInfo, ...] = ()
        self._adapters: VllmAdapters | None = None
        self._able = Capabilities()
        self._steps = Steps()
        self._report = LaneReport()
        self._way = Way()
        key = os.environ.get("VLLM_API_KEY")  # the app asks for it all the same
        self._auth: Headers = [(b"authorization", b"Bearer " + key.encode())] if key else []
        self._traced = False
        self._seen_steps = self._computed_s = 0
        self._holds = self._lanes_on = False
        self._slots = 0
        self._bulk: BulkFront | None = None
        self._sleep = Sleep(settings, self.start, self.stop)
        self._priority = EnginePriority.UNKNOWN

    async def start(self) -> None:
        """See the Protocol. Loading happens in a thread: the event loop stays free, but holds the GIL at times."""
        settings = self._settings
        await asyncio.to_thread(check_format, settings.model)
        if settings.model.startswith(("/", "./", "../")) and not await asyncio.to_thread(
            Path(settings.model).is_dir
        ):
            raise EngineStartError(f"model folder {settings.model} does not exist")
        await asyncio.to_thread(check_reachable, settings.model)
        self._leash, self._sockets = Leash(), await asyncio.to_thread(Sockets)
        self._steps.clear()
        self._bulk = BulkFront(self._way.turns) if settings.bulk_front else None
        try:
            self._llm, args, self._close_media = await asyncio.to_thread(
                load, settings, self._leash, self._compact.taps, self._steps, self._bulk
            )
            self._read_config()
            if self._lanes_on:
                self._report.start(self._llm, self._held)
            await mend(self._llm)
            await self._open(args)
            if self._bulk is not None:
                await self._bulk.begin(self._llm, Learned(self._able, self._compact.shapes))
        except EngineStartError:
            await self.stop()
            raise
        except Exception as error:
            await self.stop()
            raise EngineStartError(explain(error, wire.logged_errors())) from error

    async def join(self, boot: FrontBoot) -> None:
        """Be the bulk front of an engine that another process has started. :meth:`take_over` follows, in place of probes."""
        self._llm, args, self._close_media = await asyncio.to_thread(
            join, boot, self._compact.taps, self._steps
        )
        self._read_config()
        tasks = await self._make_app(args)
        if self._settings.compact_streams and "generate" in tasks:
            chats_stream(self._app, self._llm.model_config, self._compact.taps)

    def take_over(self, learned: Learned) -> None:
        """Know what the first front has learned."""
        self._able = learned.able
        self._compact.shapes.update(learned.shapes)

    def _read_config(self) -> None:
        config = self._llm.vllm_config
        self._traced = config.observability_config.otlp_traces_endpoint is not None
        self._holds, self._slots, self._lanes_on = holds_outputs(config), slots(config), lanes.used(config)

    async def _make_app(self, args: Any) -> tuple[str, ...]:
        """Build vLLM's app over the engine client. Returns the tasks of its model."""
        tasks: tuple[str, ...] = await self._llm.get_supported_tasks()
        self._app = await make_app(self._llm, args, tasks)
        for path, one in ENDPOINTS.items():
            with contextlib.suppress(LookupError):  # such an endpoint is called through the whole app
                self._endpoints[path] = Endpoint(self._app, one.served_at)
        return tasks

    async def _open(self, args: Any) -> None:
        """Build vLLM's app, and learn what it serves and how. ``args``: vLLM's parsed flags."""
        tasks = await self._make_app(args)
        started = Started(self._llm, args, self._app, tasks)
        known = await introduce(self, started, self._settings, self._compact, self._auth)
        self._models, self._priority = known
        self._able = self._models[0].capabilities
        if self._llm.vllm_config.lora_config is not None:
            served = self._app.state.openai_serving_models
            self._adapters = VllmAdapters(self._llm, served, self.run, self._models[0].endpoints)

    def models(self) -> tuple[ModelInfo, ...]:
        """See the Protocol."""
        return self._models

    def capacity(self) -> int:
        """See the Protocol."""
        return self._slots

    def holds_bulk(self) -> bool:
        """See the Protocol."""
        return self._lanes_on

    def priority(self) -> EnginePriority:
        """See the Protocol."""
        return self._priority

    async def run(self, request: EngineRequest, emit: Emit) -> Final:
        """See the Protocol."""
        if self._llm is None or self._llm.errored:
            raise EngineDeadError(_DEAD, reached=False)
        if self._bulk is not None and self._bulk.takes(request):
            return await self._bulk.run(request, emit)
        return await self._run_here(self._llm, request, emit)

    async def _run_here(self, llm: Any, request: EngineRequest, emit: Emit) -> Final:
        """Run a request through the front of this process, ``llm``."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        cancels = task.cancelling()
        try:
            async with self._way.taken(request.priority, request.body):
                if llm.errored:  # it died while this request waited
                    raise EngineDeadError(_DEAD, reached=False)
                final = await (self._run if request.upload is None else self._run_form)(request, emit)
        except EngineDeadError:
            raise
        except Exception as error:
            if llm.errored:
                raise EngineDeadError(_DEAD) from error
            # vLLM keeps a request that it could not hand to its engine process, as if it ran: for ever, without a step.
            await self.abort(request.id)
            if (refused := refusals.of_error(request, error)) is None:
                raise
            final = refused
        finally:
            aborted = request.id in self._aborted
            self._aborted.discard(request.id)
        if task.cancelling() > cancels:
            # vLLM's serving code answers a cancellation with an error response.
            raise asyncio.CancelledError
        if final.status >= 500 and llm.errored:
            raise EngineDeadError(_DEAD)
        if aborted and request.endpoint == RESPONSES and final.status == 200:
            return replace(final, body=ended_early(final.body))
        return refusals.settled(request, final)

    async def _run(self, request: EngineRequest, emit: Emit) -> Final:
        headers = self._headers(request)
        path, raw = request.endpoint, request.body
        endpoint, body = self._endpoints.get(path), wire.parse_body(raw)
        if endpoint is None or body is None:
            named = raw if body is None or request.adapter is None else _encode(self._named(request, body))
            sent, _ = with_salt(with_priority(named, request.priority), request.tenant)
            return whole(*await call_app(self._app, "POST", ENDPOINTS[path].served_at, sent, headers))
        refusals.check(self._able, path, body)
        body["priority"] = request.priority  # embeddings and older versions read only this
        if path == RESPONSES:
            body |= wire.own_response(request.id)
        form = ENDPOINTS[path].streams
        stream = request.stream and form is not None
        tap_id = self._compact.open(request, body, emit) if stream else None
        as_sent = bool(body.get("stream")) == request.stream
        if stream and tap_id is None:
            body["stream"] = True
        elif stream or body.get("stream"):
            body.pop("stream", None)
            body.pop("stream_options", None)
        try:
            response, raw_request = await endpoint.call(
                self._named(request, salted(body, request.tenant)), headers
            )
        except InvalidBodyError:
            quoted = raw if as_sent else with_priority(_encode(body), None)  # by the refusal
            return whole(*await call_app(self._app, "POST", ENDPOINTS[path].served_at, quoted, headers))
        finally:
            self._compact.close(tap_id)
        parts = getattr(response, "body_iterator", None)
        if parts is None:
            return whole(response.status_code, bytes(response.body))
        if not stream:
            return whole(response.status_code, b"".join([wire.as_bytes(part) async for part in parts]))
        if form == "events":
            return await relay_events(
                wire.closing(parts), emit, path, stopped=lambda: request.id in self._aborted
            )
        return await relay(
            wire.closing(parts),
            emit,
            chat=path == CHAT,
            hide_usage=False,
            ask_usage=lambda: wire.usage_beside(raw_request),
        )

    def _named(self, request: EngineRequest, body: dict[str, Any]) -> dict[str, Any]:
        """Return a body that names the adapter of its request, if it has one."""
        if request.adapter is None or self._adapters is None:
            return body
        return body | {"model": self._adapters.name_of(request.adapter)}

    async def _run_form(self, request: EngineRequest, emit: Emit) -> Final:
        endpoint = self._endpoints.get(request.endpoint)
        if request.adapter is not None and (body := wire.parse_body(request.body)) is not None:
            request = msgspec.structs.replace(request, body=_encode(self._named(request, body)))
        return await run_form(self._app, endpoint, request, self._headers(request), emit)

    def _headers(self, request: EngineRequest) -> Headers:
        headers = [
            (b"x-request-id", request.id.encode()),  # wins over the body's request_id
            (b"x-vllm-priority", b"%d" % request.priority),  # wins over the body's, in endpoints that read it
            *self._auth,
        ]
        if self._traced:  # otherwise vLLM complains of them
            headers += [(name.encode(), value.encode()) for name, value in request.trace.items()]
        return headers

    async def count(self, endpoint: str, body: bytes, priority: int = 0) -> int | None:
        """See the Protocol."""
        if self._sleep.asleep:
            return None
        if self._llm is None or self._llm.errored:
            raise EngineDeadError(_DEAD)
        if endpoint == CHAT and is_harmony(self._llm.model_config):
            return None  # vLLM's /tokenize takes the template all the same
        with in_order_of(priority):
            return await count_prompts(self._tokenize, endpoint, body)

    async def _tokenize(self, path: str, question: dict[str, Any]) -> int | None:
        if (
            self._adapters is not None and "model" in question
        ):  # an adapter may not be loaded; tokens are the model's
            question = question | {"model": self._models[0].name}
        return read_count(*await call_app(self._app, "POST", path, _encode(question), self._auth))

    async def abort(self, request_id: str) -> None:
        """See the Protocol. vLLM ends an aborted request with the output that it has."""
        llm = self._llm
        if llm is None or llm.errored or (self._bulk is not None and self._bulk.abort(request_id)):
            return
        if ours := of_job(request_id, list(llm.output_processor.external_req_ids)):
            self._aborted.add(request_id)
            await aborts.abort(llm, ours, held=self._holds)

    async def load_adapter(self, name: str, folder: Path) -> None:
        """See the Protocol."""
        await self.check()
        if self._adapters is None:
            raise AdapterBrokenError("this worker takes no adapters (adapters_max is 0)")
        await self._adapters.load(name, folder)

    async def unload_adapter(self, folder: Path) -> None:
        """See the Protocol."""
        await self.check()
        if self._adapters is not None:
            await self._adapters.unload(folder)

    def adapters(self) -> frozenset[Path]:
        """See the Protocol."""
        return frozenset() if self._adapters is None else self._adapters.folders()

    def stats(self) -> EngineStats:
        """See the Protocol."""
        if self._llm is None:
            return EngineStats(0, 0, 0.0)
        stats = self._steps.stats(self._held())
        if self._bulk is not None:
            stats = self._bulk.added_to(stats)
        return replace(stats, evictions=self._report.evictions, step_s=self._report.step_s)

    def counts(self) -> tuple[int, int, int]:
        """Return this front's requests that vLLM has, and its preemptions and generated tokens since the start."""
        return self._held(), *self._steps.counted()

    def _held(self) -> int:
        """Return how many requests vLLM has, of both fronts."""
        held: int = self._llm.output_processor.get_num_unfinished_requests()
        return held if self._bulk is None else held + self._bulk.held

    def progress(self) -> float | None:
        """See the Protocol. On a CPU one step may take minutes, so the seconds of computing count while no step ends."""
        llm = self._llm
        if llm is None or not llm.log_stats or not self._held():
            return None
        stepped, self._seen_steps = self._steps.count != self._seen_steps, self._steps.count
        if not stepped and self._leash is not None and llm.vllm_config.device_config.device_type == "cpu":
            self._computed_s = self._leash.cpu_s()  # it reads all of /proc: some milliseconds of the loop
        return self._seen_steps + self._computed_s

    async def check(self) -> None:
        """See the Protocol."""
        if self._llm is None and self._sleep.asleep:
            return
        if self._llm is None or self._llm.errored:
            raise EngineDeadError(_DEAD)

    async def sleep(self) -> None:
        """See the Protocol."""
        await self._sleep.begin(self._llm)

    async def wake(self) -> None:
        """See the Protocol."""
        await self._sleep.end(self._llm)

    async def check_weights(self, model: str) -> None:
        """See the Protocol."""
        await reloading.check_weights(self._settings, self._llm, model)

    async def reload(self, model: str) -> None:
        """See the Protocol."""
        folder = await reloading.check_weights(self._settings, self._llm, model)
        await reloading.reload(self._llm, folder)
        names = self._settings.served_model_name or (self._settings.model,)
        self._settings = replace(
            self._settings, model=str(folder), served_model_name=names
        )  # of its next start
        self._sleep.weights = str(folder)

    async def stop(self) -> None:
        """See the Protocol."""
        bulk, self._bulk = self._bulk, None
        if bulk is not None:
            await bulk.stop()
        self._report.stop()
        self._adapters = None
        llm, self._llm = self._llm, None
        close_media, self._close_media = self._close_media, None
        leash, self._leash = self._leash, None
        sockets, self._sockets = self._sockets, None
        if llm is not None:
            if (reader := getattr(llm, "output_handler", None)) is not None:
                reader.cancel()  # or it reports the end of the engine process as a failure
            await asyncio.to_thread(llm.shutdown, _STOP_S)
            llm.shutdown = (
                _nothing  # it is called again when the client is collected, perhaps after its module
            )
        if close_media is not None:
            await close_media()
        if leash is not None:
            await asyncio.to_thread(leash.release)
        if sockets is not None:
            sockets.remove()


def _nothing(*_: object) -> None:
    """Do nothing."""


_DEAD = "vLLM's engine process is dead"
_STOP_S = 0.4
"""How long the engine process has to end by itself. It often takes its time, and killing it loses nothing."""
