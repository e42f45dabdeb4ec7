"""The cursor of a reader of a batch's rows."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from api.http.errors import invalid
from broker.files import FileRole

ALL = -1
"""Number of objects that were read of a chunk: all there will ever be."""

ROLES = (FileRole.OUTPUT, FileRole.ERROR)
"""The files that are read in this order once the parts are gone."""

_MOST = 2**63 - 1


def _number(value: object, least: int = 0, most: int = _MOST) -> int:
    """Return a whole number of a cursor. Raises ValueError where it is none, or outside its bounds."""
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(value)
    return value


@dataclass(slots=True)
class Position:
    """Where a reader is.

    Attributes:
        before: chunks before this one have been read whole.
        at: chunk to objects and lines of the next object that were read; objects -1: all.
        file: of a batch whose parts are gone: output (0) or error file (1), and the byte in it; None: it reads parts.
    """

    before: int = 0
    at: dict[int, tuple[int, int]] = field(default_factory=dict)
    file: tuple[int, int] | None = None

    def encode(self) -> str:
        """Return the cursor."""
        fields: dict[str, Any] = {"b": self.before, "a": {str(n): list(p) for n, p in self.at.items()}}
        if self.file is not None:
            fields = {"f": list(self.file)}
        return (
            base64.urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode().rstrip("=")
        )

    @classmethod
    def decode(cls, text: str) -> Position:
        """Read a cursor.

        Raises:
            ApiError: 400, it is none.
        """
        try:
            fields = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            if "f" in fields:
                which, at = fields["f"]
                return cls(file=(_number(which, most=len(ROLES)), _number(at)))
            at_chunks = {_number(int(n)): (_number(p[0], ALL), _number(p[1])) for n, p in fields["a"].items()}
            return cls(_number(fields["b"]), at_chunks)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            raise invalid(f"after: not a cursor of this batch: {text[:64]!r}", "after") from None
