"""The engine's compact streams: the forms of chunks that it has learned, and the taps of the requests that run."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from jobs.endpoints import CHAT, ENDPOINTS
from workers.engines.base import Emit, EngineRequest
from workers.engines.vllm.compact import Shapes, plain
from workers.engines.vllm.reasoning import read_with_parsers
from workers.engines.vllm.request_ids import TAPPED
from workers.engines.vllm.tap import Tap


class ChatStreams(Enum):
    """How the deltas of a chat without tools reach its client."""

    PLAIN = auto()
    """As the engine makes them."""
    PARSED = auto()
    """As vLLM's parser of the request makes them."""
    WHOLE = auto()
    """In vLLM's own chunks: they go another way."""


class CompactStreams:
    """Which requests stream compactly, and how.

    Attributes:
        shapes: the form of an endpoint's chunks, by (path, with usage chunk). An endpoint without an entry streams vLLM's
            own chunks.
        taps: by the id of vLLM's request; see :func:`workers.engines.vllm.tap.tapped`.
    """

    def __init__(self) -> None:
        self.shapes: dict[tuple[str, bool], Shapes] = {}
        self.taps: dict[str, Tap] = {}

    def open(self, request: EngineRequest, body: dict[str, Any], emit: Emit) -> str | None:
        """Prepare a compact stream.

        Args:
            request: what is to be run.
            body: the same that vLLM gets; the request's id may be put in.
            emit: takes the chunks.

        Returns:
            The id of vLLM's request, for :meth:`close`; None: vLLM's own chunks go to the client.
        """
        if request.endpoint not in TAPPED:
            return None
        usage = plain(body, chat=request.endpoint == CHAT)
        shapes = None if usage is None else self.shapes.get((request.endpoint, usage))
        engine_id = TAPPED[request.endpoint].format(request.id)
        response_id = ENDPOINTS[request.endpoint].response_id
        if shapes is None or engine_id in self.taps:
            return None
        if shapes.parsed:
            body["request_id"] = request.id  # by which the parser finds the tap
        self.taps[engine_id] = Tap(shapes, response_id.format(request.id), emit, request.handed_over)
        return engine_id

    def close(self, engine_id: str | None) -> None:
        """Forget a stream that :meth:`open` prepared. Does nothing for None."""
        if engine_id is not None:
            del self.taps[engine_id]


def is_harmony(model_config: Any) -> bool:
    """Return whether conversations go another way than through a chat template."""
    return bool(model_config.hf_config.model_type == "gpt_oss")


def chats_stream(app: Any, model_config: Any, taps: Mapping[str, Tap]) -> ChatStreams:
    """Return how chats without tools may stream, and prepare vLLM's app for it.

    Args:
        app: vLLM's app.
        model_config: of its model.
        taps: see :class:`CompactStreams`.
    """
    if is_harmony(model_config):
        return ChatStreams.WHOLE
    serving = app.state.openai_serving_chat
    parser = getattr(serving, "parser_cls", None)
    if parser is None:
        return ChatStreams.PLAIN
    tool_parser = parser.tool_parser_cls
    if parser.reasoning_parser_cls is None and not getattr(tool_parser, "engine_based_streaming", False):
        return ChatStreams.PLAIN
    return ChatStreams.PARSED if read_with_parsers(serving, taps) else ChatStreams.WHOLE
