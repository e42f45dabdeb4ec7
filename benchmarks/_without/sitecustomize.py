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
