"""The engine's compact streams: the forms of chunks that it has learned, and the taps of the requests that run."""

from __future__ import annotations

from typing import Any

from jobs.endpoints import CHAT, ENDPOINTS
from workers.engines.base import Emit, EngineRequest
from workers.engines.vllm.compact import Shapes, plain
from workers.engines.vllm.request_ids import TAPPED
from workers.engines.vllm.tap import Tap


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
        self.taps[engine_id] = Tap(shapes, response_id.format(request.id), emit, request.handed_over)
        return engine_id

    def close(self, engine_id: str | None) -> None:
        """Forget a stream that :meth:`open` prepared. Does nothing for None."""
        if engine_id is not None:
            del self.taps[engine_id]


def is_harmony(model_config: Any) -> bool:
    """Return whether conversations go another way than through a chat template."""
    return bool(model_config.hf_config.model_type == "gpt_oss")


def plain_chat(app: Any, args: Any, model_config: Any) -> bool:
    """Return whether chat deltas reach the client as the engine makes them, if a request has no tools.

    Args:
        app: vLLM's app.
        args: its parsed flags.
        model_config: of its model.
    """
    if args.structured_outputs_config.reasoning_parser or is_harmony(model_config):
        return False
    parser = getattr(app.state.openai_serving_chat, "parser_cls", None)
    tool_parser = getattr(parser, "tool_parser_cls", None)
    return parser is None or (
        tool_parser is not None and not getattr(tool_parser, "engine_based_streaming", False)
    )
