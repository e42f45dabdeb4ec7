"""Traces: the engine's answer, on the span of its request. Shared by jobs and rows of batches."""

from __future__ import annotations

from monitoring.tracing import Span
from workers.engines.base import Final


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
