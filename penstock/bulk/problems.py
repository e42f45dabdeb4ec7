"""Problems with an input, each with its place there."""

from __future__ import annotations

from dataclasses import dataclass

SHOWN = 10
"""Problems that are named; the others are counted."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        line: its line in the file, from 1; in Parquet its row.
        what: the sentence.
        field: the field or CSV column at fault.
        column: the place in the line, from 1.
    """

    line: int
    what: str
    field: str | None = None
    column: int | None = None

    def __str__(self) -> str:
        """Return place and sentence."""
        place = f"line {self.line}"
        if self.column is not None:
            place += f", column {self.column}"
        if self.field is not None:
            place += f", field {self.field!r}"
        return f"{place}: {self.what}"


class InputError(Exception):
    """An input cannot be used. ``problems`` holds the first ones; there are ``count`` in all."""

    def __init__(self, message: str, problems: tuple[Problem, ...] = (), count: int = 0) -> None:
        more = count - len(problems)
        lines = [message, *(f"  {problem}" for problem in problems)]
        super().__init__("\n".join(lines + ([f"  ... and {more} more"] if more > 0 else [])))
        self.problems = problems
        self.count = count or len(problems)
