"""Prompt templates: text with ``{field}`` in it, and ``{{`` and ``}}`` for braces. No code, no formats."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from penstock.bulk.problems import InputError

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class MissingFieldError(Exception):
    """A record lacks a field. ``name`` is the template's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Template:
    """A template, read once.

    Args:
        text: ``Summarise: {text}``. A name may reach into nested objects: ``{article.title}``.

    Raises:
        InputError: a brace has no partner, or a pair of them is empty.
    """

    def __init__(self, text: str) -> None:
        self._pieces: list[tuple[str, str | None]] = []
        last = 0
        plain = ""
        for found in _PIECE.finditer(text):
            plain += text[last : found.start()]
            last = found.end()
            if found[0] in {"{{", "}}"}:
                plain += found[0][0]
                continue
            name = (found[1] or "").strip()
            if not name:
                what = f"an empty pair of braces or a lone {found[0]!r} at character {found.start() + 1}"
                raise InputError(f"the template has {what}; write {{{{ and }}}} for braces that are text")
            self._pieces.append((plain, name))
            plain = ""
        self._pieces.append((plain + text[last:], None))

    @property
    def names(self) -> tuple[str, ...]:
        """The fields it names."""
        return tuple(name for _, name in self._pieces if name is not None)

    def fill(self, fields: Mapping[str, Any]) -> str:
        """Insert a record's values. Text stays as it is, null is empty, other values are written as JSON.

        Raises:
            MissingFieldError: there is no such field.
        """
        return "".join(
            plain + ("" if name is None else _text(_find(fields, name))) for plain, name in self._pieces
        )


def _find(fields: Mapping[str, Any], name: str) -> Any:
    if name in fields:
        return fields[name]
    value: Any = fields
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise MissingFieldError(name)
        value = value[part]
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
