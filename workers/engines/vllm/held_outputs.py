"""Keeps the tokens of responses that nobody reads yet in the engine process, and sends them in lumps.

vLLM sends every token to the process that serves the client, also when that client wants the end alone. At 190 sequences
this is a quarter of that process's work for a step. Streams get their tokens in small lumps, if there are many and steps are
short: with 256 of them at a step each 8 ms, two cores have no time for a chunk of each in every step.

Runs in the engine process, as a part of its scheduler.
"""

from __future__ import annotations

import inspect
import time
from typing import Any

from workers.engines.vllm import aborts

LUMP_TOKENS = 32
"""Tokens that a request holds back at most: what is lost if the engine process hangs and its requests are aborted."""
_SLOW_STEP_S = 0.1
"""After a step as slow as this nothing is held back: there is nothing to gain."""

RESERVED = "penstock_"
"""How our keys in the ``extra_args`` of sampling parameters begin. Callers set other ones there, with ``vllm_xargs``."""
IN_LUMPS = f"{RESERVED}in_lumps"
"""Key in the ``extra_args`` of a stream's sampling parameters: its chunks are made of any number of tokens alike."""


class HeldOutputs:
    """A part of a vLLM scheduler class: put it before ``Scheduler`` or ``AsyncScheduler`` among the bases.

    The first token and the end of a request go out at once, as do its events. The tokens held back are in
    ``request.penstock_held``, through preemptions too; it is None for a request whose tokens are not. A stream's last output
    was at ``request.penstock_sent_s``; it is None for a response that is read at its end.

    Attributes:
        holds_outputs: False: every token goes out at once, because this vLLM or its configuration allows nothing else.
        stream_s: a stream gets its tokens at least so often, unless a step is longer. One that is preempted gets what was
            held back at the end of the step.
        many: with at least so many streams they get lumps; each engine process of a data-parallel group counts its own.
    """

    stream_s = 0.02
    many = 64

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.holds_outputs = aborts.install() and _fits(self)
        self._stepped_at = self._step_s = 0.0
        self._slow = True
        self._streams = self._counted = 0  # that got a token in the step before, and in this one
        self._preempted: list[Any] = []  # streams, since the step before

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """Also note a stream: it may wait for long."""
        super()._preempt_request(request, *args, **kwargs)  # type: ignore[misc]
        if getattr(request, "penstock_sent_s", None) is not None:
            self._preempted.append(request)

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        """Also see how long the step took, and send what is held of streams that were preempted."""
        now = time.monotonic()
        self._step_s, self._stepped_at = now - self._stepped_at, now
        self._slow = self._step_s > _SLOW_STEP_S
        self._streams, self._counted = self._counted, 0
        outputs = super().update_from_output(*args, **kwargs)  # type: ignore[misc]
        if self._preempted:
            self._send_held(outputs)
        return outputs

    def _send_held(self, outputs: dict[int, Any]) -> None:
        """Add what is held of the streams that were preempted to a step's outputs, in which they are not."""
        from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs

        for request in self._preempted:
            if request.penstock_held and not request.is_finished():
                output = EngineCoreOutput(
                    request.request_id,
                    request.penstock_held,
                    events=request.take_events(),
                    trace_headers=request.trace_headers,
                )
                outputs.setdefault(request.client_index, EngineCoreOutputs()).outputs.append(output)
                request.penstock_held, request.penstock_sent_s = [], self._stepped_at
        self._preempted = []

    def _update_request_with_output(
        self,
        request: Any,
        new_token_ids: list[int],
        is_stale: bool = False,  # noqa: FBT001, FBT002 - vLLM's signature
    ) -> tuple[list[int], bool]:
        """Say that a step made no token for a request whose tokens are held back: vLLM then makes no output for it."""
        new_token_ids, stopped = super()._update_request_with_output(request, new_token_ids, is_stale)  # type: ignore[misc]
        try:
            held: list[int] | None = request.penstock_held
        except AttributeError:  # its first token
            streams = comes_in_lumps(request)
            holds = self.holds_outputs and (streams or is_read_at_the_end(request))
            request.penstock_held = [] if holds else None
            request.penstock_sent_s = self._stepped_at if streams else None
            return new_token_ids, stopped
        if held is None:
            return new_token_ids, stopped
        held += new_token_ids
        sent_s: float | None = request.penstock_sent_s
        due = sent_s is not None and (is_stale or self._is_due(sent_s))  # stale: it was preempted meanwhile
        self._counted += sent_s is not None
        if not (stopped or self._slow or due or len(held) >= LUMP_TOKENS or request.events):
            return [], False
        request.penstock_held = []
        if sent_s is not None:
            request.penstock_sent_s = self._stepped_at
        return held, stopped

    def _is_due(self, sent_s: float) -> bool:
        """Whether a stream gets its tokens now: few run, or the end of the next step would be too late."""
        return self._streams < self.many or self._stepped_at - sent_s + self._step_s > self.stream_s


def is_read_at_the_end(request: Any) -> bool:
    """Whether only the last output of a vLLM ``Request`` is read, and nothing but its tokens goes with each output."""
    params = request.sampling_params
    return params is not None and params.output_kind.name == "FINAL_ONLY" and _is_plain(request, params)


def comes_in_lumps(request: Any) -> bool:
    """Whether a vLLM ``Request`` is a stream that may get several tokens in one output, and nothing but its tokens."""
    params = request.sampling_params
    return params is not None and IN_LUMPS in (params.extra_args or ()) and _is_plain(request, params)


def _is_plain(request: Any, params: Any) -> bool:
    return (
        not params.stop  # found by the process that makes text of the tokens
        and params.num_logprobs is None
        and params.prompt_logprobs is None
        and params.prompt_logprob_token_ids is None
        and not request.use_structured_output  # its grammar is led by the same tokens
        and not request.resumable
    )


def holds_outputs(config: Any) -> bool:
    """Whether the engine process of a vLLM config may hold output back."""
    scheduler = config.scheduler_config.get_scheduler_cls()  # a function, too, if a flag names one
    return isinstance(scheduler, type) and issubclass(scheduler, HeldOutputs) and aborts.install()


def _fits(scheduler: Any) -> bool:
    """Whether nothing else is sent by the token, as far as this version of vLLM is known."""
    return (
        _takes_tokens(getattr(super(HeldOutputs, scheduler), "_update_request_with_output", None))
        and getattr(scheduler, "aux_output_connector", True) is None
        and getattr(scheduler, "return_sampling_mask", True) is False
    )


def _takes_tokens(method: Any) -> bool:
    return callable(method) and list(inspect.signature(method).parameters) == [
        "request",
        "new_token_ids",
        "is_stale",
    ]
