"""What the engine `vllm` says of its progress on a CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from workers.engines.settings import VllmSettings
from workers.engines.vllm.engine import VllmEngine
from workers.engines.vllm.leash import Leash


@pytest.fixture
def engine() -> Iterator[Any]:
    """An engine whose vLLM has a request, and whose processes are this one."""
    engine: Any = VllmEngine(VllmSettings(model="any"))
    engine._llm = SimpleNamespace(
        log_stats=True,
        output_processor=SimpleNamespace(get_num_unfinished_requests=lambda: 1),
        vllm_config=SimpleNamespace(device_config=SimpleNamespace(device_type="cpu")),
    )
    engine._leash = Leash()
    engine._leash.hold(os.getpid())
    while time.process_time() < 1.1:
        pass
    yield engine
    engine._leash.release()


def test_while_steps_end_the_seconds_of_computing_are_not_looked_up(engine: Any) -> None:
    """All of /proc would be read for them, on the event loop."""
    for engine._steps.count in range(1, 6):
        assert engine.progress() == engine._steps.count


def test_computing_is_progress_in_a_long_step(engine: Any) -> None:
    assert engine.progress() == engine._steps.count + engine._leash.cpu_s() >= 1
