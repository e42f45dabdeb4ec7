"""Aborts that keep what was generated, also what the engine process holds back (:mod:`.held_outputs`): both ends of them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_METHOD = "penstock_abort_held"
_HELD_KINDS = frozenset({"FINAL_ONLY", "DELTA"})
_ANSWER_S = 2.0
"""How long an abort waits for the engine process, which answers between two steps."""


async def abort(llm: Any, ids: Iterable[str], *, held: bool) -> None:
    """Abort requests in vLLM; each ends with the output that it has.

    Args:
        llm: vLLM's engine client.
        ids: as the caller of vLLM gave them. An unknown one is ignored.
        held: whether the engine process may hold output back. If it does not answer in 2 s, this output is lost.
    """
    front = llm.output_processor
    inner = [one for outer in ids for one in front.external_req_ids.get(outer, ())]
    ask = [one for one in inner if front.request_states[one].output_kind.name in _HELD_KINDS] if held else []
    parents = {
        one: up.request_id for one in inner if (up := front.request_states[one].parent_req) is not None
    }
    ended: set[str] = set()
    if ask:
        try:
            answers = await asyncio.wait_for(
                llm.engine_core.call_utility_all_async(_METHOD, ask), timeout=_ANSWER_S
            )
            ended = {one for answer in answers for one in answer}
        except TimeoutError:
            log.warning("engine_abort_late", requests=len(ask), waited_s=_ANSWER_S)
    # The last outputs of `ended` are under way: vLLM would end these requests without them.
    rest = [one for one in inner if one not in ended]
    if rest:
        # With the children goes their parent, which vLLM would keep for ever.
        alone = {} if ended else {parents[one]: None for one in rest if one in parents}
        await llm.abort([*rest, *alone], internal=True)


def install() -> bool:
    """Give vLLM's engine core the method that :func:`abort` calls. In the engine process.

    Returns:
        False: this vLLM lacks something that it takes.
    """
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.engine.core import EngineCoreProc
    from vllm.v1.engine.core_client import AsyncMPClient

    wanted = {"request_id", "new_token_ids", "finish_reason", "events", "trace_headers"}
    if (
        not wanted <= set(EngineCoreOutput.__struct_fields__)
        or not callable(getattr(EngineCoreProc, "_invoke_utility_method", None))
        or not callable(getattr(AsyncMPClient, "call_utility_all_async", None))
    ):
        return False
    setattr(EngineCoreProc, _METHOD, _abort_held)
    return True


def _abort_held(self: Any, request_ids: list[str]) -> list[str]:
    """Abort those of the requests whose tokens are held back, and send these tokens as their last output.

    Returns:
        The ids of these requests.
    """
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
    from vllm.v1.request import RequestStatus

    held = {}
    for request_id in request_ids:
        request = self.scheduler.requests.get(request_id)
        if request is not None and not request.is_finished() and (tokens := unsent(request)) is not None:
            held[request_id] = tokens
    outputs = defaultdict(list)
    for request in self.scheduler.finish_requests(list(held), RequestStatus.FINISHED_ABORTED):
        outputs[request.client_index].append(
            EngineCoreOutput(
                request.request_id,
                held[request.request_id],
                finish_reason=FinishReason.ABORT,
                events=request.take_events(),
                trace_headers=request.trace_headers,
            )
        )
    for client, ended in outputs.items():
        self.output_queue.put_nowait((client, EngineCoreOutputs(outputs=ended)))
    return list(held)


def unsent(request: Any) -> list[int] | None:
    """Return the tokens of a vLLM ``Request`` that are held back; None: its tokens are not."""
    held: list[int] | None = getattr(request, "penstock_held", None)
    return held
