"""The pieces of Markdown that generated pages are put together from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Rows = Iterable[Sequence[str]]


def table(header: Sequence[str], rows: Rows) -> str:
    """Return a Markdown table; pipes in cells are escaped."""
    lines = [
        list(header),
        ["---"] * len(header),
        *([cell.replace("|", "\\|") for cell in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def code(text: str) -> str:
    """Return inline code; nothing for nothing."""
    return f"`{text}`" if text else ""


def generated(title: str, source: str, *parts: str) -> str:
    """Return a whole page."""
    mark = f"<!-- Made from {source} by tools/gen_docs.py; change it there. -->"
    return "\n\n".join([mark, f"# {title}", *parts]) + "\n"
