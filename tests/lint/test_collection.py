"""Collecting the tests stays cheap: every process of a run imports every test module, and most run few of its tests."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
SLOW = {"cloudcoil", "torch", "transformers", "vllm"}
"""Seconds of CPU time each. A test that needs one imports it itself."""

IMPORTED_LATER = {"e2e/held_schedulers.py", "e2e/quantised.py"}
"""Modules that a test imports itself, or the process of its engine."""


def test_no_test_module_imports_a_slow_package() -> None:
    found = {
        str(path.relative_to(TESTS)): slow
        for path in TESTS.rglob("*.py")
        if (slow := SLOW.intersection(re.findall(r"^(?:import|from) (\w+)", path.read_text(), re.MULTILINE)))
    }
    assert found.keys() == IMPORTED_LATER, found
