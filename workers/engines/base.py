"""The engine Protocol: how a worker uses anything that generates tokens.

A job's body is the raw OpenAI request and its result the raw OpenAI response. Templates, tools, structured output and
log-probabilities are the engine's work. One contract suite (``tests/e2e/test_engine_contract.py``) runs over
every engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec

from jobs.capabilities import Capabilities
from jobs.facts import EnginePriority, EngineStats
from jobs.model import Usage
from jobs.stream_chunks import Chunk
from monitoring.tracing import Span

Emit: TypeAlias = Callable[[Chunk], None]
"""Takes a stream's next chunk. Never blocks, never raises; called on the engine's event loop."""


class EngineDeadError(Exception):
    """The engine died or cannot be reached. The job may run again, elsewhere or after a restart.

    Attributes:
        reached: the engine had the request, so the request may be the cause.
    """

    def __init__(self, message: str, *, reached: bool = True) -> None:
        super().__init__(message)
        self.reached = reached


class EngineStartError(Exception):
    """The engine could not start. The message is for the operator."""


class AdapterBrokenError(Exception):
    """The engine cannot use a LoRA adapter. The message says why."""


class ReloadRefusedError(Exception):
    """Other weights cannot be loaded into a running engine. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that belongs to a request."""

    filename: str
    data: bytes


class EngineRequest(msgspec.Struct, frozen=True):
    """One job, as an engine sees it.

    Attributes:
        id: the job's id. The response's ``id`` ends in it (``chatcmpl-<id>``).
        endpoint: one of :data:`jobs.endpoints.ENDPOINTS`.
        body: the client's raw JSON body. Its own ``stream`` field is overruled by ``stream``.
        stream: chunks are wanted. No effect if the endpoint does not stream.
        priority: smaller runs sooner. It replaces a ``priority`` of the body.
        attempt: which run of this job it is, from 1.
        trace: headers (W3C Trace Context) by which the engine's own spans find their trace; empty if there is none.
        tenant: with whose requests alone it shares cached prefixes (:mod:`workers.engines.salt`); None: with all.
        handed_over: called once what the engine does before scheduling (templates, tokens) is done, if it can tell.
        upload: the file of an endpoint that takes a form; None: it takes none. ``file`` in the body does not count.
        adapter: the folder of the loaded LoRA adapter to run with, in place of the body's ``model``; None: as the body says.
    """

    id: str
    endpoint: str
    body: bytes
    stream: bool = False
    priority: int = 0
    attempt: int = 1
    trace: Mapping[str, str] = msgspec.field(default_factory=dict)
    handed_over: Callable[[], None] | None = None
    tenant: str | None = None
    upload: Upload | None = None
    adapter: Path | None = None


@dataclass(frozen=True, slots=True)
class Final:
    """How a run ended.

    Attributes:
        status: HTTP status; 200, or the engine's own refusal.
        body: the complete OpenAI response (also after a stream), or the OpenAI error body. UTF-8 JSON.
        usage: token counts; None if the response has none.
    """

    status: int
    body: bytes
    usage: Usage | None


def record_final(span: Span, final: Final) -> None:
    """Write token counts and an error status onto the span of the request."""
    if not span.recording:
        return
    if final.usage is not None:
        span.set(
            {
                "gen_ai.usage.input_tokens": final.usage.prompt_tokens,
                "gen_ai.usage.output_tokens": final.usage.completion_tokens,
            }
        )
    if final.status >= 400:
        span.error(str(final.status))


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that an engine serves.

    Attributes:
        name: the name clients use.
        card: its entry for ``GET /v1/models``, JSON-able.
        endpoints: the endpoints it can do; empty if the engine does not know.
        max_model_len: context length in tokens; None if unknown.
        max_token_bytes: the longest token of its vocabulary in UTF-8 bytes, so that ``bytes / max_token_bytes`` is a
            lower bound of a text's token count; None if unknown.
        max_output_tokens: a request that asks for more completion tokens is refused, whatever its prompt; None if
            unknown.
        capabilities: what it can do.
    """

    name: str
    card: Mapping[str, Any] = field(default_factory=dict)
    endpoints: tuple[str, ...] = ()
    max_model_len: int | None = None
    max_token_bytes: int | None = None
    max_output_tokens: int | None = None
    capabilities: Capabilities = field(default_factory=Capabilities)


class Engine(Protocol):
    """Runs requests concurrently on the event loop it was started on.

    Attributes:
        in_process: it belongs to this worker, with the processes that it starts. False: a server that others use too.
    """

    name: str
    in_process: bool

    async def start(self) -> None:
        """Load the model and be ready to run.

        Raises:
            EngineStartError: with a message that says what to do.
        """

    def models(self) -> tuple[ModelInfo, ...]:
        """Return its models. Valid after :meth:`start`."""

    def capacity(self) -> int:
        """Return how many requests it runs at once without holding some back."""

    def holds_bulk(self) -> bool:
        """Return whether it queues bulk itself. Valid after :meth:`start`.

        If so, requests of the lane ``bulk`` beyond their share of its slots wait inside it, and one that runs makes way for
        any other request that finds no slot. Otherwise it runs whatever has a slot.
        """

    def priority(self) -> EnginePriority:
        """Return whether :attr:`EngineRequest.priority` takes effect, as far as it is known by now."""

    async def run(self, request: EngineRequest, emit: Emit) -> Final:
        """Run one request to its end.

        With ``request.stream`` the chunks go to ``emit``, in order, before this returns: either one :class:`Head`
        first and then ``Text`` deltas and closing ``Frames``, or ``Frames`` alone. Rendered, they are what the
        engine's own server would have streamed as ``data:`` lines, without ``[DONE]``. Without it ``emit`` is not called.
        Streams of the form ``events`` are ``Frames`` alone, each the JSON of an event. After :meth:`abort` no event comes
        that closes the answer.

        To abort at once, cancel the awaiting task: the engine frees what the request held, then ``CancelledError`` goes on.
        To keep the output so far, call :meth:`abort` first.

        Returns:
            The end of the run; a refusal by the engine (status 4xx) is a return, not an exception.

        Raises:
            EngineDeadError: the engine is gone.
        """

    async def abort(self, request_id: str) -> None:
        """End a run early: it soon returns, with status 200, the response so far.

        No effect if there is no such run, or if the engine cannot return a part of it; then the caller cancels it.
        """

    async def count(self, endpoint: str, body: bytes, priority: int = 0) -> int | None:
        """Count the prompt tokens that it would make of a request, without running it.

        With the chat template, tools and special tokens; of several prompts, the longest one's.

        Args:
            endpoint: one of a job, so not ``/v1/responses``.
            body: the client's raw JSON body; it may be one that :meth:`run` would refuse.
            priority: of its lane: where there is one tokenizer for both, calls go before bulk.

        Returns:
            Tokens, before any truncation that the request asks for; None if it cannot count.

        Raises:
            EngineDeadError: the engine is gone.
        """

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA adapter beside those that are loaded, and try it with a request of one token.

        Requests run with it by :attr:`EngineRequest.adapter`. Nothing else changes: another version of the same name is
        another folder.

        Args:
            name: the model's name in answers.
            folder: its files, which must stay until :meth:`unload_adapter` has returned. The folder's own name stands for
                the content: the engine may find cached prefixes by it.

        Raises:
            AdapterBrokenError: it cannot be used; nothing of it stays in the engine.
            EngineDeadError: the engine is gone.
        """

    async def unload_adapter(self, folder: Path) -> None:
        """Forget a LoRA adapter that no running request uses. No effect if it is not loaded.

        Raises:
            EngineDeadError: the engine is gone.
        """

    def adapters(self) -> frozenset[Path]:
        """Return the folders of the LoRA adapters that are loaded."""

    def stats(self) -> EngineStats:
        """Return its signals, as of the last step."""

    def progress(self) -> float | None:
        """Return a number that changes with each of its steps. None: it has no request, or cannot tell."""

    async def check(self) -> None:
        """Return if the engine is alive.

        Raises:
            EngineDeadError: it is not.
        """

    async def sleep(self) -> None:
        """Free the devices for another model. Only without a request; until :meth:`wake` there must be none.

        Meanwhile :meth:`models` and :meth:`capacity` answer as before, :meth:`check` finds nothing wrong, and :meth:`count`
        may answer None. No effect while it sleeps, and if the devices are not this worker's.

        Raises:
            EngineDeadError: the engine is gone.
        """

    async def wake(self) -> None:
        """Take the devices again, and be ready to run. No effect if it is awake.

        Raises:
            EngineStartError: it cannot, with a message for the operator.
            EngineDeadError: the engine is gone.
        """

    async def check_weights(self, model: str) -> None:
        """Return if the weights of another model can take the place of those that run. Nothing changes.

        Raises:
            ReloadRefusedError: they cannot: other shapes, missing files, or this engine cannot do that.
        """

    async def reload(self, model: str) -> None:
        """Replace the weights by those of a model that :meth:`check_weights` has let pass, under the same names.

        Only without a request. What was cached of the ones before is forgotten. :meth:`wake` brings the new ones, too.

        Raises:
            ReloadRefusedError: the engine refuses the files; its weights are of no version then.
            EngineDeadError: the engine is gone.
        """

    async def stop(self) -> None:
        """Free everything, processes included. Safe to call twice, and after a failed start."""


def death_counts(engine: Engine, *, reached: bool) -> bool:
    """Return whether an engine's death counts against a request.

    Only the death of this worker's own engine does. A server that others use too may be away for any reason: that says
    nothing about the request.

    Args:
        engine: dead.
        reached: it had the request.
    """
    return engine.in_process and reached


def being_cancelled() -> bool:
    """Return whether somebody cancels the current task. Otherwise a ``CancelledError`` is the fault of the awaited code."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
