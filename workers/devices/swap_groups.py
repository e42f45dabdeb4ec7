"""Swap groups in ``penstock.toml``: a table with several models is one pool for each, which share its devices in turns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MODELS = "models"
"""The key of a table that makes it a swap group."""

_EACH = ("model", "served_model_name", "aliases", "swap_group")
"""Keys that a model has for itself, so that a table with several models may not hold them."""

_LONGEST = 64


class BadModelsError(ValueError):
    """A table's ``models`` cannot be made into pools. The message ends a sentence that names file and table."""


def expanded(name: str, table: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the pools that a table stands for: itself, or one for each of its ``models``.

    Raises:
        BadModelsError: they are no list of different names, or the table sets what each model has for itself.
    """
    models = table.get(MODELS)
    if models is None:
        return {name: table}
    if (
        not isinstance(models, list)
        or len(models) < 2
        or not all(isinstance(one, str) and one for one in models)
    ):
        raise BadModelsError(
            f'{MODELS}: it must be a list of at least two models, such as ["org/a", "org/b"]'
        )
    if taken := [key for key in _EACH if key in table]:
        hint = "Write a table for each model instead, all with the same swap_group"
        raise BadModelsError(f"{taken[0]}: each of its models has its own. {hint}")
    rest = {key: value for key, value in table.items() if key != MODELS}
    pools: dict[str, Mapping[str, Any]] = {}
    for model in models:
        pool = pool_name(name, model)
        if pool in pools:
            raise BadModelsError(
                f"{MODELS}: {pools[pool]['model']!r} and {model!r} would both be the pool {pool!r}"
            )
        pools[pool] = {**rest, "model": model, "swap_group": name}
    return pools


def pool_name(table: str, model: str) -> str:
    """Return the name of a model's pool: the table's, and the last part of the model's, as far as a pool's name may go."""
    last = model.rstrip("/").rpartition("/")[2] or model
    return f"{table}-{re.sub(r'[^A-Za-z0-9_-]+', '-', last)}"[:_LONGEST].rstrip("-")


def disagreement(awake: Mapping[str, Sequence[tuple[str, int]]]) -> str | None:
    """Return what is wrong with swap groups whose pools say different numbers; None: nothing.

    Args:
        awake: by group, each pool with its ``swap_awake``.
    """
    for group, pools in awake.items():
        (first, wanted), *others = pools
        for pool, number in others:
            if number != wanted:
                there = f"{wanted} in [pools.{first}] of the swap group {group!r}"
                return f"[pools.{pool}] swap_awake: it is {number}, but {there}"
    return None
