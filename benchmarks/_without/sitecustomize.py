"""Takes one of the means out of Penstock's processes for which there is no setting; Python imports this file at its start.

``BENCHMARK_WITHOUT`` names them, with commas between. See ``MEANS`` of ``interactive_under_bulk.py``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

TURN_MS = 5000.0
"""For so long each model has its turn in a round robin: as long as the policy lets one stay that has work."""


def in_turns(members: Any, wanted: frozenset[str], rules: Any, *, skip_idle: bool = False) -> frozenset[str]:
    """Decide as a round robin does: each model in turn for a fixed time, or only those that have work."""
    everyone = {one.worker: one for one in sorted(members, key=lambda one: one.worker)}
    kept = [worker for worker in wanted if worker in everyone]
    if not kept:
        return frozenset(list(everyone)[: rules.awake])
    (holder,) = kept
    moving = any(one.holds and one.worker != holder for one in everyone.values())
    stays = everyone[holder].awake_ms is not None and everyone[holder].awake_ms < TURN_MS
    if skip_idle and everyone[holder].idle_ms is not None:
        stays = False
    if moving or stays or everyone[holder].awake_ms is None:
        return wanted
    names = list(everyone)
    place = names.index(holder)
    for name in names[place + 1 :] + names[:place]:
        if everyone[name].wants or not skip_idle:
            return frozenset({name})
    return wanted


PATCHES: dict[str, dict[str, dict[str, Any]]] = {
    "held_outputs": {
        "workers.engines.vllm.held_outputs": {"is_read_at_the_end": lambda _request: False},
    },
    "render_order": {
        "workers.engines.vllm.rendering": {"by_priority": lambda _renderer: False, "BULK_AT_ONCE": 1 << 20},
    },
    "bulk_turns": {
        "workers.engines.vllm.turns": {"Turns.after": lambda _self, work: work()},
    },
    "swap_policy": {"jobs.swapping": {"decide": in_turns}},
    "swap_policy_of_the_idle": {
        "jobs.swapping": {
            "decide": lambda members, wanted, rules: in_turns(members, wanted, rules, skip_idle=True)
        },
    },
    "bulk_pace": {
        "workers.admission.pace": {"Pace.room": lambda _self, free, _now_s: max(0, free)},
    },
}
"""For each of them: the modules, and what is put in the place of their names."""


class Patched(MetaPathFinder):
    """Finds the modules to change, and changes each as soon as it is loaded."""

    def __init__(self, wanted: dict[str, dict[str, Any]]) -> None:
        self._wanted = wanted

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Return the spec of a module to change; None for all others."""
        names = self._wanted.get(fullname)
        spec = None if names is None else PathFinder.find_spec(fullname, path, target)
        if names is None or spec is None or spec.loader is None:
            return None
        load: Callable[[Any], None] = spec.loader.exec_module

        def load_changed(module: Any) -> None:
            load(module)
            for name, value in names.items():
                *above, last = name.split(".")
                owner = module
                for one in above:
                    owner = getattr(owner, one)
                getattr(owner, last)  # one that is gone must stop the benchmark
                setattr(owner, last, value)

        spec.loader.exec_module = load_changed  # type: ignore[method-assign]
        return spec


_modules: dict[str, dict[str, Any]] = {}
for _one in filter(None, os.environ.get("BENCHMARK_WITHOUT", "").split(",")):
    _modules |= PATCHES[_one]
if _modules:
    sys.meta_path.insert(0, Patched(_modules))
