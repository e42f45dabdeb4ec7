"""The benchmarks' modules are found as they find each other when one is run as a script."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def as_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
