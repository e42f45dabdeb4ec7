"""The garbage collector passes over all that collecting the tests makes: it stays until the end of the run."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without a look for garbage, and keep what was made out of every later one."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
