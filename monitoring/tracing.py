"""Traces: one per job, from the HTTP request across the queue into the engine.

These classes record nothing: they are in use when traces are off, and only pass a caller's context on, so that the hot path
pays for an attribute look-up alone. :mod:`monitoring.otlp` makes a process's tracer, which records if traces are on. No span
holds a prompt or a completion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TypeAlias

from monitoring.trace_context import TraceContext

Value: TypeAlias = str | bool | int | float
Attributes: TypeAlias = Mapping[str, Value]


class Kind(Enum):
    """OpenTelemetry's kinds of span, by its own names."""

    INTERNAL = "INTERNAL"
    SERVER = "SERVER"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"


class Span:
    """A piece of work in a trace. This class records nothing.

    Attributes:
        context: the parent for spans below this one; None: there is no trace.
    """

    __slots__ = ("context",)
    recording = False
    """Whether attributes are recorded."""

    def __init__(self, context: TraceContext | None) -> None:
        self.context = context

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""

    def rename(self, name: str) -> None:
        """Give it another name."""

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        """Record an event at this moment."""

    def error(self, kind: str, message: str = "") -> None:
        """Mark the work as failed. ``kind``: a failure code, one of few; ``message``: no part of a prompt."""

    def end(self, at_ns: int | None = None) -> None:
        """End the span, now or at a Unix time in nanoseconds. Later calls have no effect."""


NO_SPAN = Span(None)


class Tracer:
    """Begins spans. This class is off."""

    enabled = False

    def begin(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        parent: TraceContext | None = None,
        attributes: Attributes | None = None,
        *,
        links: Iterable[TraceContext | None] = (),
        start_ns: int | None = None,
    ) -> Span:
        """Begin a span.

        Args:
            name: the kind of work, one of few names.
            parent: the span it is part of; None: begin a trace.
            attributes: those known already, by OpenTelemetry's names.
            links: related spans of other traces; a row of a batch links to the chunk that ran it.
            start_ns: Unix time in nanoseconds; None: now.
        """
        return NO_SPAN if parent is None else Span(parent)

    def close(self) -> None:
        """Send the remaining spans, within three seconds, and drop those that could not be sent."""
