"""How tables, panels and times are drawn for people. rich is imported on use."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.panel import Panel
    from rich.table import Table

T = TypeVar("T")
Cell: TypeAlias = "str | tuple[str, str]"
"""A cell's text, or its text and its style."""

WIDE = 200
"""Columns when the output is no terminal, which has no width to keep to."""

_STYLES = {
    "succeeded": "green",
    "running": "cyan",
    "failed": "red",
    "expired": "yellow",
    "cancelled": "yellow",
    "ready": "green",
    "draining": "yellow",
    "asleep": "dim",
    "waking": "cyan",
}

# Generated text is not to be trusted with the terminal: control characters go, but newline and tab stay.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column of a table.

    Attributes:
        name: its heading.
        cell: makes an item's cell.
        right: align to the right, for figures.
        cut: cut its text short if the terminal is too narrow. Never set for text that users copy.
    """

    name: str
    cell: Callable[[T], Cell]
    right: bool = False
    cut: bool = False


Columns: TypeAlias = "Sequence[Column[T] | None]"
"""The columns of a table; None is a column that is not shown."""


def table(columns: Columns[T], items: Iterable[T]) -> Table:
    """Make a table, a line for each item."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    shown = [column for column in columns if column is not None]
    for column in shown:
        # If the terminal is too narrow, rich takes the room from columns that may wrap; their cells are cut instead.
        made.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=not column.cut,
            overflow="fold",
        )
    for item in items:
        cells = []
        for column in shown:
            cell = column.cell(item)
            words, style = (cell, "") if isinstance(cell, str) else cell
            if column.name in {"state", "status"}:
                style = _STYLES.get(words, "")
            text = Text(printable(words), style)
            if column.cut:
                text.no_wrap, text.overflow = True, "ellipsis"
            cells.append(text)
        made.add_row(*cells)
    return made


def panel(title: str, fields: Iterable[tuple[str, str | None]]) -> Panel:
    """Make a panel of named values; a value that is None or empty is left out."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in fields:
        if value:
            style = _STYLES.get(value, "") if name == "state" else ""
            grid.add_row(name, Text(printable(value), style))
    return Panel(grid, title=title, title_align="left", expand=False)


def screen(width: int = WIDE) -> RichConsole:
    """Return rich's console on stdout; ``width`` is for an output that is no terminal."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else width)


def printable(text: str) -> str:
    """Return text that cannot steer the terminal; unchanged if stdout is none."""
    return _CONTROL.sub("", text) if sys.stdout.isatty() else text


def plural(count: int, noun: str) -> str:
    """Say a number of things."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def ago(when: float | None) -> str:
    """Say how long ago a time was: ``5m ago``; empty for None."""
    if when is None:
        return ""
    past = max(time.time() - when, 0.0)
    unit, name = next((unit for unit in _UNITS if past >= unit[0]), (1, "s"))
    return f"{past / unit:.0f}{name} ago"


def about(seconds: float) -> str:
    """Say an estimate in one unit: ``30 s``, ``3 m``."""
    unit, name = next((unit for unit in _UNITS if seconds >= 2 * unit[0]), (1, "s"))
    return f"{seconds / unit:.0f} {name}"


def span(seconds: float) -> str:
    """Say a measured time in a few characters: ``320ms``, ``4.2s``, ``12m``, ``1.5h``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    unit, name = next((unit for unit in _UNITS if seconds >= unit[0]), (1, "s"))
    digits = 1 if unit >= 3600 or (unit == 1 and seconds < 10) else 0
    return f"{seconds / unit:.{digits}f}{name}"


def left(seconds: float) -> str:
    """Say a remaining time: ``42s``, ``7m10s``, ``3h05m``."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))
