"""Which signals begin the drain."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from workers.process.signals import drain_on_signals, ignore_signals

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


class Ending:
    def __init__(self) -> None:
        self.drains: list[float | None] = []

    def drain(self, timeout_s: float | None) -> None:
        self.drains.append(timeout_s)


@pytest.fixture
def ending() -> Iterator[Any]:
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield Ending()
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_the_first_signal_drains_and_any_other_gives_back_at_once(ending: Any) -> None:
    drain_on_signals(ending)
    for signum in SIGNALS:
        signal.raise_signal(signum)
    assert ending.drains == [None, 0.0, 0.0, 0.0]


def test_nohup_is_heeded(ending: Any) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    drain_on_signals(ending)
    signal.raise_signal(signal.SIGHUP)
    assert ending.drains == []


def test_a_signal_after_the_end_does_nothing(ending: Any) -> None:
    drain_on_signals(ending)
    ignore_signals()
    for signum in SIGNALS:
        signal.raise_signal(signum)
    assert ending.drains == []
