"""vLLM's front in this process: its OpenAI app over its engine client.

Requests are served by vLLM's own endpoint functions; plain streams are taken as deltas (:mod:`.tap`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from typing import Any

import msgspec

from jobs.capabilities import Capabilities
from jobs.endpoints import CHAT, ENDPOINTS, RESPONSES
from workers.engines.base import Emit, EngineDeadError, EngineRequest, Final
from workers.engines.counting import count_prompts, read_count
from workers.engines.events_assemble import ended_early
from workers.engines.events_stream import relay_events
from workers.engines.full_stream import relay, whole
from workers.engines.priority import with_priority
from workers.engines.salt import salted, with_salt
from workers.engines.vllm import aborts, refusals, wire
from workers.engines.vllm.adapters import VllmAdapters
from workers.engines.vllm.compact_streams import CompactStreams, is_harmony
from workers.engines.vllm.held_outputs import holds_outputs
from workers.engines.vllm.inner_app import Endpoint, Headers, InvalidBodyError, call_app
from workers.engines.vllm.rendering import Way, in_order_of
from workers.engines.vllm.request_ids import of_job
from workers.engines.vllm.speech import run_form

DEAD = "vLLM's engine process is dead"

_encode = msgspec.json.Encoder().encode


class Front:
    """Runs requests through vLLM's app. ``llm`` of its methods is vLLM's engine client, as it is at the moment.

    Attributes:
        app: vLLM's FastAPI app.
        auth: headers that the app asks for.
        compact: the streams that are taken as deltas.
        way: of bulk to the engine core.
        able: what the model can do. A request that vLLM would die of is refused.
        model: the name of the model itself, without an adapter.
        adapters: the LoRA adapters that are loaded; None: there are none.
    """

    def __init__(self) -> None:
        self.app: Any = None
        key = os.environ.get("VLLM_API_KEY")  # the app asks for it all the same
        self.auth: Headers = [(b"authorization", b"Bearer " + key.encode())] if key else []
        self.compact = CompactStreams()
        self.way = Way()
        self.able = Capabilities()
        self.model = ""
        self.adapters: VllmAdapters | None = None
        self._endpoints: dict[str, Endpoint] = {}
        self._aborted: set[str] = set()
        self._traced = self._holds = False

    def serve(self, llm: Any, app: Any) -> None:
        """Take the app of an engine that has started."""
        self.app = app
        for path, one in ENDPOINTS.items():
            with contextlib.suppress(LookupError):  # such an endpoint is called through the whole app
                self._endpoints[path] = Endpoint(app, one.served_at)
        config = llm.vllm_config
        self._traced = config.observability_config.otlp_traces_endpoint is not None
        self._holds = holds_outputs(config)

    async def run(self, llm: Any, request: EngineRequest, emit: Emit) -> Final:
        """See :meth:`workers.engines.base.Engine.run`."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        cancels = task.cancelling()
        try:
            async with self.way.taken(request.priority, request.body):
                if llm.errored:  # it died while this request waited
                    raise EngineDeadError(DEAD, reached=False)
                final = await (self._run if request.upload is None else self._run_form)(request, emit)
        except EngineDeadError:
            raise
        except Exception as error:
            if llm.errored:
                raise EngineDeadError(DEAD) from error
            # vLLM keeps a request that it could not hand to its engine process, as if it ran: for ever, without a step.
            await self.abort(llm, request.id)
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
            raise EngineDeadError(DEAD)
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
            return whole(*await call_app(self.app, "POST", ENDPOINTS[path].served_at, sent, headers))
        refusals.check(self.able, path, body)
        body["priority"] = request.priority  # embeddings and older versions read only this
        if path == RESPONSES:
            body |= wire.own_response(request.id)
        form = ENDPOINTS[path].streams
        stream = request.stream and form is not None
        tap_id = self.compact.open(request, body, emit) if stream else None
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
            return whole(*await call_app(self.app, "POST", ENDPOINTS[path].served_at, quoted, headers))
        finally:
            self.compact.close(tap_id)
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
        if request.adapter is None or self.adapters is None:
            return body
        return body | {"model": self.adapters.name_of(request.adapter)}

    async def _run_form(self, request: EngineRequest, emit: Emit) -> Final:
        endpoint = self._endpoints.get(request.endpoint)
        if request.adapter is not None and (body := wire.parse_body(request.body)) is not None:
            request = msgspec.structs.replace(request, body=_encode(self._named(request, body)))
        return await run_form(self.app, endpoint, request, self._headers(request), emit)

    def _headers(self, request: EngineRequest) -> Headers:
        headers = [
            (b"x-request-id", request.id.encode()),  # wins over the body's request_id
            (b"x-vllm-priority", b"%d" % request.priority),  # wins over the body's, in endpoints that read it
            *self.auth,
        ]
        if self._traced:  # otherwise vLLM complains of them
            headers += [(name.encode(), value.encode()) for name, value in request.trace.items()]
        return headers

    async def count(self, llm: Any, endpoint: str, body: bytes, priority: int) -> int | None:
        """See :meth:`workers.engines.base.Engine.count`."""
        if endpoint == CHAT and is_harmony(llm.model_config):
            return None  # vLLM's /tokenize takes the template all the same
        with in_order_of(priority):
            return await count_prompts(self._tokenize, endpoint, body)

    async def _tokenize(self, path: str, question: dict[str, Any]) -> int | None:
        if (
            self.adapters is not None and "model" in question
        ):  # an adapter may not be loaded; tokens are the model's
            question = question | {"model": self.model}
        return read_count(*await call_app(self.app, "POST", path, _encode(question), self.auth))

    async def abort(self, llm: Any, request_id: str) -> None:
        """See :meth:`workers.engines.base.Engine.abort`. vLLM ends an aborted request with the output that it has."""
        if not llm.errored and (ours := of_job(request_id, list(llm.output_processor.external_req_ids))):
            self._aborted.add(request_id)
            await aborts.abort(llm, ours, held=self._holds)
