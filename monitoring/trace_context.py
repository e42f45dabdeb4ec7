"""W3C Trace Context: the trace that a request belongs to, in headers and in job records.

https://www.w3.org/TR/trace-context/ (version 00).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Self

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_MAX_STATE = 512
"""Longest ``tracestate``, in characters; a longer one is dropped whole (section 3.3.1.5)."""


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace: the parent of the next spans.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        sampled: its spans are recorded.
        state: the vendors' ``tracestate``, passed on unchanged.
    """

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""

    @classmethod
    def new(cls, *, sampled: bool) -> Self:
        """Begin a trace."""
        return cls(f"{random.getrandbits(128) or 1:032x}", new_span_id(), sampled)

    @classmethod
    def read(cls, parent: str, state: str = "") -> Self | None:
        """Read ``traceparent`` and ``tracestate``; None: the first is not valid (section 3.2.2.3)."""
        found = _PARENT.match(parent)
        if found is None:
            return None
        version, trace_id, span_id, flags, more = found.groups()
        if trace_id == _NO_TRACE or span_id == _NO_SPAN or version == "ff" or (version == "00" and more):
            return None
        state = state.strip()
        return cls(trace_id, span_id, bool(int(flags, 16) & 1), state if len(state) <= _MAX_STATE else "")

    @classmethod
    def decode(cls, text: str | None) -> Self | None:
        """Read the output of :meth:`encode`; None: there is none, or it is not valid."""
        if not text:
            return None
        parent, _, state = text.partition(" ")
        return cls.read(parent, state)

    def encode(self) -> str:
        """Return one field of a record: ``traceparent``, and after a blank ``tracestate`` if there is one."""
        return f"{self.parent} {self.state}" if self.state else self.parent

    @property
    def parent(self) -> str:
        """The header ``traceparent``."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def headers(self) -> dict[str, str]:
        """Return the headers for a request that belongs here."""
        found = {"traceparent": self.parent}
        if self.state:
            found["tracestate"] = self.state
        return found

    def child(self) -> Self:
        """Return the place of a new span below this one."""
        return type(self)(self.trace_id, new_span_id(), self.sampled, self.state)


def new_span_id() -> str:
    """Return a random span id that is not 0."""
    return f"{random.getrandbits(64) or 1:016x}"
