"""Pools that scale from zero: what is known of one before its first worker has registered. Pure.

A pool of the settings is one if its table says ``scales_from_zero``; an operator can declare others while the server runs. A
request for its model is queued although no worker lives: the queue is what has one started.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from jobs.placement import GB, Device

KEY: Final = "scales_from_zero"
"""The key of a pool's table in the settings file."""


class DeclaredPoolStartError(Exception):
    """A table says that its pool scales from zero, and does not say what it serves. The message names table and key."""


class DeclaredPool(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A pool that scales from zero.

    Attributes:
        pool: its name.
        model: the name that requests use.
        aliases: further names of the model.
        slots: jobs that one worker runs at once; None: as the last one that registered.
        device: name of a worker's device; None: unknown.
        device_memory_gb: memory of its devices together, in 10^9 bytes; None: unknown.
        devices: how many each worker has.
        from_settings: the settings declare it; without: an operator does.
    """

    pool: str
    model: str
    aliases: tuple[str, ...] = ()
    slots: int | None = None
    device: str | None = None
    device_memory_gb: float | None = None
    devices: int = 1
    from_settings: bool = False

    @property
    def runs_on(self) -> Device:
        """A worker's device, for placement."""
        memory = None if self.device_memory_gb is None else int(self.device_memory_gb * GB)
        return Device(self.device, memory, self.devices)


def from_tables(tables: Mapping[str, Any]) -> tuple[DeclaredPool, ...]:
    """Return the pools of the settings that scale from zero, by name.

    Args:
        tables: ``[pools.*]`` of the settings file, as TOML has them. Their values are otherwise the workers' to check.

    Raises:
        DeclaredPoolStartError: one of them names no model, or several; or a name means two models.
    """
    found = tuple(_declared(name, table) for name, table in sorted(tables.items()) if _scales(name, table))
    meaning: dict[str, DeclaredPool] = {}
    for one in found:
        for name in (one.model, *one.aliases):
            other = meaning.setdefault(name, one)
            if other.model != one.model:
                key = "model" if name == one.model else "aliases"
                there = f"{other.model!r} in [pools.{other.pool}]"
                raise DeclaredPoolStartError(
                    f"[pools.{one.pool}] {key}: {name!r} means {one.model!r} here, and {there}"
                )
    return found


def _scales(name: str, table: Any) -> bool:
    if not isinstance(table, Mapping):
        return False
    said = table.get(KEY, False)
    if not isinstance(said, bool):
        raise DeclaredPoolStartError(f"[pools.{name}] {KEY}: it must be true or false")
    return said


def _declared(name: str, table: Mapping[str, Any]) -> DeclaredPool:
    if "models" in table:
        raise DeclaredPoolStartError(
            f"[pools.{name}] {KEY}: a pool with several models cannot scale from zero"
        )
    model = table.get("served_model_name") or table.get("model")
    if not isinstance(model, str):
        raise DeclaredPoolStartError(
            f"[pools.{name}] {KEY}: name its model with `model` or `served_model_name`, as no worker may be there to ask"
        )
    given = {field: table.get(key) for field, key in _KEYS.items()} | {
        "devices": table.get("tensor_parallel", 1)
    }
    said = {"pool": name, "model": model, "aliases": _words(table.get("aliases", ())), "from_settings": True}
    try:
        return msgspec.convert(said | {k: v for k, v in given.items() if v is not None}, DeclaredPool)
    except msgspec.ValidationError as error:
        raise DeclaredPoolStartError(f"[pools.{name}]: {error}") from error


_KEYS: Final = {"slots": "concurrency", "device": "device", "device_memory_gb": "device_memory_gb"}
"""Fields of a declared pool, and the keys of its table."""


def _words(value: Any) -> Any:
    """Return a list that may be written as text with commas, as the workers read it."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value
