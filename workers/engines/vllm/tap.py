"""Takes a running request's deltas from vLLM's output loop, and hands vLLM's serving code only their sum."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from jobs.stream_chunks import Text
from workers.engines.base import Emit
from workers.engines.vllm.adapters import shown_name
from workers.engines.vllm.compact import Ending, Shapes, encode_str
from workers.engines.vllm.rendering import arrived, end_in_turn


class Tap:
    """Intercepts one request's output, before its collector.

    No task is woken per token and no chunk object is made: vLLM's output loop calls :meth:`on_output`, which emits the
    text at once. The response is built by vLLM from the one output that is let through.
    """

    __slots__ = (
        "_emit",
        "_handed_over",
        "_held",
        "_id",
        "_put",
        "_shapes",
        "_started",
        "_tokens",
        "_values",
        "used",
    )

    def __init__(
        self, shapes: Shapes, response_id: str, emit: Emit, handed_over: Callable[[], None] | None = None
    ) -> None:
        self._shapes, self._id, self._emit, self._handed_over = shapes, response_id, emit, handed_over
        self._held: list[str] = []
        self._tokens: list[int] = []
        self._started = False
        self._values: dict[str, str] = {}
        self._put: Callable[[Any], None] | None = None
        self.used = False

    def attach(self, collector: Any, lora_name: str | None) -> None:
        """Put this before ``collector`` (a ``RequestOutputCollector`` that nothing was read from yet)."""
        model = self._shapes.model if lora_name is None else encode_str(lora_name).decode()
        self._values = {"id": encode_str(self._id).decode(), "created": str(int(time.time())), "model": model}
        self._put = collector.put
        self.used = True
        if self._handed_over is not None:
            self._handed_over()
        early = collector.get_nowait()
        collector.put = self.on_output
        if early is not None:
            self.on_output(early)

    def on_output(self, output: Any) -> None:
        """Take vLLM's next ``RequestOutput`` (or its exception) for this request."""
        assert self._put is not None  # noqa: S101 - attached
        if isinstance(output, Exception):
            self._put(output)
            return
        choice = output.outputs[0]
        if not self._started:
            self._started = True
            self._emit(self._shapes.head(self._values))
        if choice.finish_reason is None:
            self._tokens.extend(choice.token_ids)
            if choice.text:
                self._held.append(choice.text)
                self._emit(Text(choice.text))
            return
        self._tokens.extend(choice.token_ids)
        # vLLM's serving code turns "error" into an error response; the end event closes an aborted stream.
        if choice.finish_reason not in {"error", "abort"}:
            prompt = len(output.prompt_token_ids or ()) + len(output.encoder_prompt_token_ids or ())
            end = Ending(choice.text, choice.finish_reason, choice.stop_reason, prompt, len(self._tokens))
            self._emit(self._shapes.tail(self._values, end))
        elif choice.text:
            self._emit(Text(choice.text))
        self._held.append(choice.text)
        choice.text, choice.token_ids = "".join(self._held), self._tokens
        self._put(output)


def tapped(base: Any, taps: dict[str, Tap]) -> Any:
    """Return vLLM's engine client with taps: a request whose id is in ``taps`` runs in delta mode through its tap.

    A request that is cancelled while it is handed to the engine process is aborted there. vLLM itself leaves it running,
    for nobody (its issue 57061).
    """
    from vllm.sampling_params import RequestOutputKind

    class TappedLLM(base):  # type: ignore[misc]
        async def add_request(
            self, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any
        ) -> Any:
            tap = taps.get(request_id)
            if tap is not None:
                params.output_kind = RequestOutputKind.DELTA
            try:
                collector = await super().add_request(request_id, prompt, params, *args, **kwargs)
            except asyncio.CancelledError:
                await self.abort(request_id)
                raise
            arrived()
            if tap is None:
                end_in_turn(collector)
            else:
                lora = kwargs.get("lora_request")
                tap.attach(collector, None if lora is None else shown_name(lora.lora_name))
            return collector

    return TappedLLM
