from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.batches import (
    MAX_WINDOW_S,
    TERMINAL,
    TRANSITIONS,
    BatchEvent,
    BatchStatus,
    Cutter,
    IllegalBatchTransitionError,
    form_ledger,
    lane_for,
    next_status,
    parse_ledger,
    window_s,
)
from jobs.lanes import Lane


@pytest.mark.parametrize(("status", "event"), list(product(BatchStatus, BatchEvent)))
def test_every_pair(status: BatchStatus, event: BatchEvent) -> None:
    target = TRANSITIONS.get((status, event))
    if target is None:
        with pytest.raises(IllegalBatchTransitionError):
            next_status(status, event)
    else:
        assert next_status(status, event) is target
        assert status not in TERMINAL


def test_every_status_is_reached_and_every_other_left() -> None:
    assert {*TRANSITIONS.values(), BatchStatus.VALIDATING} == set(BatchStatus)
    assert {status for status, _ in TRANSITIONS} == set(BatchStatus) - TERMINAL


@pytest.mark.parametrize(("text", "seconds"), [("24h", 86_400), ("30m", 1800), ("90s", 90), ("7d", 604_800)])
def test_windows(text: str, seconds: int) -> None:
    assert window_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "24", "h", "0h", "-1h", "1.5h", "24H", " 1h", "1h ", "1w", "999999999d"]
)
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ValueError, match="completion window"):
        window_s(text)


def test_the_longest_window() -> None:
    assert window_s(f"{MAX_WINDOW_S}s") == MAX_WINDOW_S


HOUR = 3600.0


@pytest.mark.parametrize(
    ("priority", "left_s", "eta_s", "lane"),
    [
        (Lane.BULK, HOUR, None, Lane.BULK),
        (Lane.BULK, 0.5 * HOUR, None, Lane.LOW),
        (Lane.BULK, 0.25 * HOUR, None, Lane.NORMAL),
        (Lane.BULK, 0.1 * HOUR, None, Lane.HIGH),
        (Lane.BULK, 0.1 * HOUR, 60.0, Lane.BULK),  # it will be in time
        (Lane.BULK, 0.1 * HOUR, 359.0, Lane.HIGH),  # hardly
        (Lane.BULK, 0.9 * HOUR, 2 * HOUR, Lane.BULK),  # it has only begun
        (Lane.HIGH, HOUR, None, Lane.HIGH),
        (Lane.NORMAL, 0.4 * HOUR, HOUR, Lane.NORMAL),  # never downwards
        (Lane.BULK, -1.0, None, Lane.HIGH),
    ],
)
def test_promotion(priority: Lane, left_s: float, eta_s: float | None, lane: Lane) -> None:
    assert lane_for(priority, left_s, HOUR, eta_s) is lane


@given(st.lists(st.integers(1, 50), max_size=300), st.integers(1, 7), st.integers(1, 400))
def test_chunks_cover_every_row_once_and_are_few(sizes: list[int], rows: int, size: int) -> None:
    cutter = Cutter(rows, size, most=8)
    at, starts = 0, []
    for number, length in enumerate(sizes, 1):
        starts.append((at, at + length, number))
        cutter.add(at, at + length, number)
        at += length
    chunks = cutter.chunks()
    assert sum(chunk.rows for chunk in chunks) == len(sizes)
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    assert len(chunks) <= 2 * 8
    end = 0
    for chunk in chunks:
        assert chunk.offset == end
        end = chunk.offset + chunk.length
        inside = [start for start in starts if chunk.offset <= start[0] < end]
        assert len(inside) == chunk.rows
        assert inside[0][2] == chunk.first_line
    assert end == at


def test_small_inputs_are_cut_by_rows_and_by_bytes() -> None:
    cutter = Cutter(rows=3, size=100)
    for n in range(7):
        cutter.add(10 * n, 10 * n + 10, n + 1)
    cutter.add(70, 270, 8)
    assert [chunk.rows for chunk in cutter.chunks()] == [3, 3, 2]


def test_ledgers() -> None:
    assert parse_ledger("") == []
    assert parse_ledger("100001:5 100002:0") == [(100001, 5), (100002, 0)]
    assert form_ledger([(100001, 5), (100002, 0)]) == "100001:5 100002:0"
