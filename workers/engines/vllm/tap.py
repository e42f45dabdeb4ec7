"""Takes a running request's deltas from vLLM's output loop, and hands vLLM's serving code only their sum."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from jobs.stream_chunks import Chunk, Frames, Text
from workers.engines.base import Emit
from workers.engines.vllm.adapters import shown_name
from workers.engines.vllm.compact import Ending, Shapes, encode_str
from workers.engines.vllm.held_outputs import IN_LUMPS, RESERVED
from workers.engines.vllm.reasoning import Reader
from workers.engines.vllm.rendering import arrived, end_in_turn


class Tap:
    """Intercepts one request's output, before its collector.

    No task is woken per token and no chunk object is made: vLLM's output loop calls :meth:`on_output`, which emits the
    text at once. The response is built by vLLM from the one output that is let through.

    Attributes:
        reads: makes what splits the text into reasoning and content, when the request is ready; None: nothing does.
        used: whether the request ran through this.
    """

    __slots__ = (
        "_emit",
        "_handed_over",
        "_held",
        "_id",
        "_put",
        "_reader",
        "_shapes",
        "_started",
        "_tokens",
        "_values",
        "reads",
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
        self._reader: Reader | None = None
        self.reads: Callable[[], Reader] | None = None
        self.used = False

    @property
    def in_lumps(self) -> bool:
        """Whether the engine process may send several tokens at once: no parser reads them."""
        return not self._shapes.parsed

    def attach(self, collector: Any, lora_name: str | None) -> None:
        """Put this before ``collector`` (a ``RequestOutputCollector`` that nothing was read from yet)."""
        model = self._shapes.model if lora_name is None else encode_str(lora_name).decode()
        self._values = {"id": encode_str(self._id).decode(), "created": str(int(time.time())), "model": model}
        self._put = collector.put
        self._reader = None if self.reads is None else self.reads()
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
        choice, reader = output.outputs[0], self._reader
        if not self._started:
            self._started = True
            self._emit(self._shapes.head(self._values, None if reader is None else reader.forms))
        self._tokens.extend(choice.token_ids)
        if choice.text:
            self._held.append(choice.text)
        if reader is not None:
            self._read(reader, choice, output)
        elif choice.finish_reason is None:
            if choice.text:
                self._emit(Text(choice.text))
            return
        elif self._ends(choice):
            self._emit(self._tail(choice, output, choice.text))
        elif choice.text:
            self._emit(Text(choice.text))
        if choice.finish_reason is not None:
            choice.text, choice.token_ids = "".join(self._held), self._tokens
            self._put(output)

    def _read(self, reader: Reader, choice: Any, output: Any) -> None:
        """Emit what vLLM's parser makes of an output. If it fails, the request ends with its error, and no other does."""
        if not choice.text and not self._tokens:
            return  # the prompt is read in parts
        try:
            chunk = self._parsed(reader, choice, output)
        except Exception as error:  # noqa: BLE001 - of any parser
            assert self._put is not None  # noqa: S101 - attached
            self._put(error)
            self._emit = _nowhere
            return
        if chunk is not None:
            self._emit(chunk)

    def _parsed(self, reader: Reader, choice: Any, output: Any) -> Chunk | None:
        delta = reader.delta(choice, output)
        if self._ends(choice):
            return self._tail(choice, output, reader.last(delta), reader)
        if delta is None:
            return None
        return reader.text(delta) or self._shapes.chunk(self._values, reader.json(delta))

    @staticmethod
    def _ends(choice: Any) -> bool:
        # vLLM's serving code turns "error" into an error response; the end event closes an aborted stream.
        return choice.finish_reason is not None and choice.finish_reason not in {"error", "abort"}

    def _tail(self, choice: Any, output: Any, delta: str, reader: Reader | None = None) -> Frames:
        prompt = len(output.prompt_token_ids or ()) + len(output.encoder_prompt_token_ids or ())
        reason = choice.finish_reason
        reasoning = None
        if reader is not None:
            reason, reasoning = reader.finish_reason(reason), reader.reasoning_tokens(self._tokens)
        end = Ending(delta, reason, choice.stop_reason, prompt, len(self._tokens), reasoning)
        return self._shapes.tail(self._values, end)


def _nowhere(_: Chunk) -> None:
    """Drop a chunk."""


def tapped(base: Any, taps: dict[str, Tap]) -> Any:
    """Return vLLM's engine client with taps: a request whose id is in ``taps`` runs in delta mode through its tap.

    What a caller has put into its ``extra_args`` under a name of ours is dropped, as vLLM drops names that it does not know.

    A request that is cancelled while it is handed to the engine process is aborted there. vLLM itself leaves it running,
    for nobody (its issue 57061).
    """
    from vllm.sampling_params import RequestOutputKind

    class TappedLLM(base):  # type: ignore[misc]
        async def add_request(
            self, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any
        ) -> Any:
            tap = taps.get(request_id)
            if extra := getattr(params, "extra_args", None):
                params.extra_args = {key: extra[key] for key in extra if not key.startswith(RESERVED)}
            if tap is not None:
                params.output_kind = RequestOutputKind.DELTA
                if tap.in_lumps:
                    params.extra_args = {**(params.extra_args or {}), IN_LUMPS: True}
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
