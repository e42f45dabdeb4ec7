"""Keeps the tokens of responses that nobody reads yet in the engine process, and sends them in lumps.

vLLM sends every token to the process that serves the client, also when that client wants the end alone. At 190 sequences
this is a quarter of that process's work for a step. Runs in the engine process, as a part of its scheduler.
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


class HeldOutputs:
    """A part of a vLLM scheduler class: put it before ``Scheduler`` or ``AsyncScheduler`` among the bases.

    The first token and the end of a request go out at once, as do its events. The tokens held back are in
    ``request.penstock_held``, through preemptions too; it is None for a request whose tokens are not.

    Attributes:
        holds_outputs: False: every token goes out at once, because this vLLM or its configuration allows nothing else.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.holds_outputs = aborts.install() and _fits(self)
        self._stepped_at = 0.0
        self._slow = True

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        """Also see how long the step took."""
        now = time.monotonic()
        self._slow, self._stepped_at = now - self._stepped_at > _SLOW_STEP_S, now
        return super().update_from_output(*args, **kwargs)  # type: ignore[misc]

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
            holds = self.holds_outputs and is_read_at_the_end(request)
            request.penstock_held = [] if holds else None
            return new_token_ids, stopped
        if held is None:
            return new_token_ids, stopped
        held += new_token_ids
        if not (stopped or self._slow or len(held) >= LUMP_TOKENS or request.events):
            return [], False
        request.penstock_held = []
        return held, stopped


def is_read_at_the_end(request: Any) -> bool:
    """Whether only the last output of a vLLM ``Request`` is read, and nothing but its tokens goes with each output."""
    params = request.sampling_params
    return (
        params is not None
        and params.output_kind.name == "FINAL_ONLY"
        and not params.stop  # found by the process that makes text of the tokens
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
