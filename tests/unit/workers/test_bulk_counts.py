"""What the consumer's thread asks of the chunks on the engine's loop."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.lanes import Lane
from workers.batches.chunk import BulkRuns


@pytest.fixture
def nervous() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("nervous")
def test_chunks_come_and_go_while_another_thread_counts_them() -> None:
    run = SimpleNamespace(claim=SimpleNamespace(lane=Lane.BULK), left=1)
    books: Any = SimpleNamespace(_starting={}, _runs={}, _stuck=set())
    over = threading.Event()

    def work() -> None:
        n = 0
        while not over.is_set():
            n += 1
            books._starting[n], books._runs[n] = (Lane.LOW, 5), run
            books._starting.pop(n - 9, None)
            books._runs.pop(n - 9, None)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            bulk, others = BulkRuns.chunks(books)
            assert 0 <= bulk <= 10
            assert 0 <= others <= 10
            assert BulkRuns.pending(books) >= 0
    finally:
        over.set()
        thread.join()
