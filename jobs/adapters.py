"""LoRA adapters as data: the record of one, what workers say of it, and how a model list has it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec

MOST_NAME: Final = 128
"""Characters of an adapter's name at most."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")

NO_ADAPTERS: Final = (
    "the workers of its pool take no adapters: set adapters_max in the pool's table and start them again"
)


class AdapterState(StrEnum):
    """What a worker says of an adapter."""

    LOADED = "loaded"
    """Its engine has it."""

    STORED = "stored"
    """It has a checked copy, and loads it for the next request."""

    FAILED = "failed"
    """It cannot load it; the report has the reason."""


class Adapter(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An adapter, as an operator has declared it for a pool.

    Attributes:
        name: the name that requests use as their ``model``.
        source: where it came from, as the operator named it.
        key: of the object in storage: a tar of ``adapter_config.json`` and ``adapter_model.safetensors``. Every upload has
            a key of its own, and its object never changes.
        digest: SHA-256 of that tar, in hexadecimal: its version. The same files have the same digest.
        size_bytes: of that tar.
        rank: of its matrices.
        base: the model that its configuration names; None: it names none.
        pinned: workers keep it loaded.
        tenant: the only tenant that may use it; None: all.
        created_ms: when this version was declared.
    """

    name: str
    pool: str
    source: str
    key: str
    digest: str
    size_bytes: int
    rank: int
    base: str | None = None
    pinned: bool = False
    tenant: str | None = None
    created_ms: int = 0


class Report(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a worker says of an adapter.

    Attributes:
        digest: of the version that it means.
        state: what it did with it.
        reason: why it failed.
    """

    digest: str
    state: AdapterState
    reason: str | None = None


class Offered(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An adapter as the list of models has it.

    Attributes:
        digest: its version.
        tenant: the only tenant that may use it; None: all.
        ready: a worker had it, so it is listed.
        broken: why no live worker of its pool can load it; None: one can, or has not tried yet.
    """

    digest: str = ""
    tenant: str | None = None
    ready: bool = False
    broken: str | None = None

    def of(self, tenant: str) -> bool:
        """Whether a tenant may use it."""
        return self.tenant is None or self.tenant == tenant


def state_of(adapter: Adapter, reports: Iterable[Report | None]) -> str:
    """Return the state of an adapter in its pool, by what each live worker says; None: it says nothing.

    ``loaded`` or ``stored`` if a worker says so; ``failed``: every worker does; else ``pending``.
    """
    said = {report.state if report and report.digest == adapter.digest else None for report in reports}
    for state in (AdapterState.LOADED, AdapterState.STORED):
        if state in said:
            return state.value
    return AdapterState.FAILED.value if said == {AdapterState.FAILED} else "pending"


def wrong_name(name: str) -> str | None:
    """Return what is wrong with an adapter's name; None: nothing."""
    if len(name) > MOST_NAME:
        return f"a name has at most {MOST_NAME} characters"
    if not _NAME.fullmatch(name) or "//" in name or name.endswith("/"):
        return "a name begins with a letter or a digit, and has letters, digits, '.', '_', '-' and single '/' between others"
    return None


def with_adapters(
    models: Sequence[Mapping[str, Any]], adapted: Iterable[tuple[str, str, Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Return the facts of models, and those of adapters, made from their base models.

    Args:
        models: facts as workers registered them, with ``pool`` and ``name``.
        adapted: the pool, the name and :class:`Offered` of each declared adapter. Its base is its pool's first model that is
            no adapter. It is left out without one, and if a model or an alias has its name by now.
    """
    bases: dict[str, Mapping[str, Any]] = {}
    names: set[str] = set()
    for model in models:
        names |= {model["name"], *(model.get("aliases") or ())}
        if not (model.get("card") or {}).get("parent"):
            bases.setdefault(model["pool"], model)
    made = [
        _made(name, offered, bases[pool])
        for pool, name, offered in adapted
        if pool in bases and name not in names
    ]
    return [*map(dict, models), *made]


def _made(name: str, offered: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    able = dict(base.get("capabilities") or {})
    if able.pop("adapters", None) == 0:
        offered = {**offered, "ready": False, "broken": NO_ADAPTERS}
    return {
        **base,
        "name": name,
        "created": 0,
        "aliases": [],
        "card": {**(base.get("card") or {}), "id": name, "root": name, "parent": base["name"]},
        "capabilities": {**able, "adapter_of": base["name"]},
        "adapter": dict(offered),
    }
