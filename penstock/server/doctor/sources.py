"""Which value each setting has, and where it comes from."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from broker.db.urls import without_password
from broker.secret_files import secret_file
from broker.settings import BrokerSettings
from broker.sources import aliases, is_kubernetes, settings_file

HIDDEN = "***"
_DEFAULT = "default"
_TYPED = "command line"
_TELLING = re.compile(r"key|token(?!izer|s\b)|passw|secret|credential|bearer", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as it is in effect.

    Attributes:
        value: as text; a secret is :data:`HIDDEN`.
        source: ``default``, ``command line``, ``PENSTOCK_…``, ``penstock.toml:12`` or a secret file.
        hides: other places that set it too, without effect.
    """

    name: str
    value: str
    source: str
    hides: tuple[str, ...] = ()

    @property
    def is_default(self) -> bool:
        """Whether nobody set it."""
        return self.source == _DEFAULT

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {"name": self.name, "value": self.value, "source": self.source, "hides": list(self.hides)}


def effective(
    given: Collection[str], *layers: BrokerSettings, instead: Mapping[str, str] = MappingProxyType({})
) -> list[Setting]:
    """Return each setting of these layers once, in their order.

    Args:
        given: the names set on the command line.
        instead: what to say in the place of some variables, which were set by ourselves.
    """
    table = _Table.read(settings_file())
    found: dict[str, Setting] = {}
    for layer in layers:
        for name, field in type(layer).model_fields.items():
            if name not in found:
                typed = [_TYPED] if name in given else []
                first, *others = [*typed, *_places(name, field, table, instead), _DEFAULT]
                hides = tuple(other for other in others if other != _DEFAULT)
                found[name] = Setting(name, shown(field, getattr(layer, name)), first, hides)
    return list(found.values())


def _places(name: str, field: FieldInfo, table: _Table, instead: Mapping[str, str]) -> Iterator[str]:
    """Yield the places that set a setting, in their order of precedence."""
    names = aliases(name, field)
    by_name = {variable.lower(): variable for variable, text in os.environ.items() if text}
    for alias in names:
        variable = by_name.get(alias)
        if variable is not None and not is_kubernetes(variable.upper(), os.environ[variable]):
            yield instead.get(variable, variable)
    path = secret_file(name, field)
    if path is not None:
        yield str(path)
    if name in table.lines:
        yield f"{table.file}:{table.lines[name]}"


@dataclass(frozen=True, slots=True)
class _Table:
    """The settings file: the line of each key at its top level."""

    file: Path
    lines: Mapping[str, int]

    @classmethod
    def read(cls, file: Path) -> _Table:
        try:
            text = file.read_text(encoding="utf-8")
            keys = tomllib.loads(text).keys()
        except (OSError, ValueError):
            return cls(file, {})
        lines: dict[str, int] = {}
        for number, line in enumerate(text.splitlines(), 1):
            found = re.match(r"\s*\[?\s*\"?([A-Za-z0-9_]+)", line)
            if found and found[1] in keys:
                lines.setdefault(found[1], number)
        return cls(file, lines)


def shown(field: FieldInfo, value: Any) -> str:
    """Return a setting's value as text, without secrets."""
    if value is None:
        return "none"
    url = isinstance(value, str) and "://" in value
    if isinstance(value, SecretStr) or (field.repr is False and not url):
        return HIDDEN
    if url:
        return _address(value)
    if isinstance(value, dict):
        return f"{len(value)} of them" if value else "none"
    if isinstance(value, tuple):
        return " ".join(_arguments(map(str, value))) or "empty"
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _address(url: str) -> str:
    """Return an address without its password, and without the values of its query, which may be tokens."""
    shown, mark, query = without_password(url).partition("?")
    return shown + mark + re.sub(r"=[^&#]*", f"={HIDDEN}", query)


def has_secret(items: Sequence[str]) -> bool:
    """Whether one of these is an address with a password or token, or an option of an engine with a secret."""
    for item in items:
        query = item.partition("?")[2]
        with suppress(ValueError):  # no address that can be read
            if "://" in item and (without_password(item) != item or (query and _TELLING.search(query))):
                return True
    options = any(item.startswith("-") for item in items)
    return options and HIDDEN in " ".join(_arguments(items))


def _arguments(items: Iterable[str]) -> Iterator[str]:
    """Yield a list's items without secrets: what a telling option has behind ``=`` or a space, or as the next item."""
    follows = False
    for item in items:
        option = item.startswith("-")
        if follows and not option:
            yield HIDDEN
            follows = False
            continue
        follows = False
        if not _TELLING.search(item):
            yield _address(item) if "://" in item else item
        elif option and (sign := re.search(r"[= ]", item)):
            yield item[: sign.end()] + HIDDEN
        elif option:
            follows = True
            yield item
        else:
            yield HIDDEN
