"""The pools in ``penstock.toml``: one table ``[pools.<name>]`` for each, with a worker's settings in it."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from typing import Any, TypeAlias

import pydantic

from broker.settings import BrokerSettings, MetricsSettings
from broker.sources import given, settings_file
from jobs.names import NAME, WORDS, in_words
from workers.devices.swap_groups import MODELS, BadModelsError, expanded
from workers.settings import WorkerSettings

Tables: TypeAlias = Mapping[str, Mapping[str, Any]]

OWN = (
    *(
        "model",
        "served_model_name",
        "aliases",
        "adapters",
        "engine_args",
        "tool_parser",
        "reasoning_parser",
        "speculation",
    ),
    "scales_from_zero",
    *("gpus", "tensor_parallel", "nodes", "node_master", "workers", "device", "device_memory_gb"),
)
"""Keys that each pool sets for itself. A value beside the tables, or in the environment, is for the case of one model."""

KEYS = tuple(
    name
    for name in sorted(WorkerSettings.model_fields, key=MetricsSettings.model_fields.__contains__)
    if name not in BrokerSettings.model_fields and name not in {"pool", "pool_version", "name", "data_dir"}
)
"""The keys that a table may hold; those that a worker shares with other processes come last."""


class PoolsStartError(Exception):
    """Something is wrong with the tables. The message names the file, the table and the key."""


def read_tables() -> Tables:
    """Return the file's ``[pools.*]`` by name; empty if there is no file or no pool in it.

    A table with several ``models`` is a table for each; see :mod:`workers.devices.swap_groups`.

    Raises:
        PoolsStartError: it is not TOML, or a table, its name or a key is wrong.
    """
    file = settings_file()
    try:
        with file.open("rb") as source:
            whole = tomllib.load(source)
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PoolsStartError(f"{file} cannot be read: {error}") from error
    written = whole.get("pools", {})
    if not isinstance(written, dict):
        raise PoolsStartError(f"{file}: pools must be tables, such as [pools.chat]")
    tables: dict[str, Mapping[str, Any]] = {}
    for name, table in written.items():
        pools = _pools_of(name, table)
        if twice := pools.keys() & tables.keys() | (pools.keys() - {name}) & written.keys():
            raise PoolsStartError(f"{file}: [pools.{name}] {MODELS}: there is another pool {min(twice)!r}")
        tables |= pools
    beside = [key for key in OWN if key in whole] if tables else []
    if beside:
        raise PoolsStartError(
            f"{file}: {beside[0]}: it stands beside the pools {_names(tables)}; move it into the table of one"
        )
    return tables


def _pools_of(name: str, table: Any) -> dict[str, Mapping[str, Any]]:
    """Return the pools of one table, which may be anything that TOML has."""
    file = settings_file()
    if not isinstance(table, dict):
        raise PoolsStartError(f"{file}: [pools] {name}: a pool is a table of its own, [pools.{name}]")
    if not re.fullmatch(NAME, name):
        raise PoolsStartError(f"{file}: [pools.{name}]: bad name of a pool; {WORDS[NAME]}")
    for key in table:
        if key not in KEYS and key != MODELS:
            raise PoolsStartError(f"{file}: [pools.{name}] {key}: {_unknown(key)}")
    try:
        return expanded(name, table)
    except BadModelsError as error:
        raise PoolsStartError(f"{file}: [pools.{name}] {error}") from error


def worker_settings(overrides: Mapping[str, Any]) -> WorkerSettings:
    """Return the settings of a worker: those of its pool if the file has pools, else the flat ones.

    Args:
        overrides: given on the command line; they win over the table.

    Raises:
        pydantic.ValidationError: a bad setting outside of the tables.
        PoolsStartError: a bad table, or no or an unknown pool was named.
    """
    settings = _of_its_pool(overrides)
    if settings.pool_version is None:
        return settings
    return settings.model_copy(update={"pool": f"{settings.pool}-{settings.pool_version}"})


def _of_its_pool(overrides: Mapping[str, Any]) -> WorkerSettings:
    tables = read_tables()
    flat = WorkerSettings(**overrides)
    if not tables:
        return flat
    every = pool_settings(tables, overrides)
    check_names(every)
    if "pool" not in flat.model_fields_set:
        msg = f"{settings_file()} has the pools {_names(tables)}: say which with --pool (or PENSTOCK_POOL)"
        raise PoolsStartError(msg)
    if flat.pool not in every:
        msg = f"{settings_file()} has no table [pools.{flat.pool}]; it has the pools {_names(tables)}"
        raise PoolsStartError(msg)
    return every[flat.pool]


def pool_settings(tables: Tables, overrides: Mapping[str, Any]) -> dict[str, WorkerSettings]:
    """Return each pool's settings.

    Args:
        tables: see :func:`read_tables`.
        overrides: given on the command line, for all of them.

    Raises:
        pydantic.ValidationError: a bad setting outside of the tables.
        PoolsStartError: a bad value in a table.
    """
    return {name: _one(name, table, overrides) for name, table in tables.items()}


def _one(name: str, table: Mapping[str, Any], overrides: Mapping[str, Any]) -> WorkerSettings:
    defaults = {key: WorkerSettings.model_fields[key].default for key in OWN}
    try:
        return WorkerSettings(**{**defaults, **table, **overrides, "pool": name})
    except pydantic.ValidationError as error:
        for found in error.errors(include_url=False):
            key = str(found["loc"][0]) if found["loc"] else ""
            if key in table and key not in overrides:
                it_is = given(WorkerSettings.model_fields.get(key), found)
                msg = f"{settings_file()}: [pools.{name}] {key}: {in_words(found)}{it_is}"
                raise PoolsStartError(msg) from error
        raise


def served_name(settings: WorkerSettings) -> str | None:
    """Return the name of the model that such a worker serves; None: its engine decides."""
    if settings.engine == "openai":
        return settings.model
    if settings.engine == "simulated":
        return settings.served_model_name or settings.model or "simulated"
    if settings.paced is not None:
        return settings.served_model_name or settings.paced_name
    return (settings.served_model_name or settings.model) if settings.model else "tiny-random"


def check_names(pools: Mapping[str, WorkerSettings]) -> dict[str, str]:
    """Return the model that each name means, and refuse a name that means two.

    Raises:
        PoolsStartError: naming both tables.
    """
    meaning: dict[str, tuple[str, str]] = {}
    for pool, settings in pools.items():
        model = served_name(settings)
        if model is None:
            continue
        for name in (model, *settings.aliases):
            known, where = meaning.setdefault(name, (model, pool))
            if known != model:
                raise PoolsStartError(
                    f"{settings_file()}: [pools.{pool}] {'model' if name == model else 'aliases'}: {name!r} means {model!r} "
                    f"here, and {known!r} in [pools.{where}]"
                )
    return {name: model for name, (model, _) in meaning.items()}


def _unknown(key: str) -> str:
    if key in WorkerSettings.model_fields:
        return "it cannot be said for one pool; it stands above the tables"
    near = difflib.get_close_matches(key, KEYS, n=1)
    return (
        f"there is no such key; did you mean {near[0]}?"
        if near
        else f"there is no such key; there are {', '.join(KEYS)}"
    )


def _names(tables: Tables) -> str:
    return ", ".join(tables)
