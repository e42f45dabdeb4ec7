"""Ids, lanes, timings and chunks."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.ids import cell_of, is_job_id, made_ms, make_job_id
from jobs.lanes import SUBMITTABLE, Lane
from jobs.model import Timings, Usage
from jobs.stream_chunks import Frames, Head, Text, decode, encode, merge


@given(st.integers(0, (1 << 48) - 1), st.binary(min_size=10, max_size=16))
def test_ids_are_uuid7(now_ms: int, entropy: bytes) -> None:
    job_id = make_job_id(now_ms, entropy)
    assert is_job_id(job_id)
    assert len(job_id) == 36
    value = int(job_id[4:], 16)
    assert value >> 80 == now_ms
    assert value >> 76 & 0xF == 7
    assert value >> 62 & 0b11 == 0b10


def test_ids_sort_by_time_and_differ() -> None:
    ids = [make_job_id(now_ms, os.urandom(10)) for now_ms in range(1000)]
    assert ids == sorted(ids)
    assert make_job_id(1, os.urandom(10)) != make_job_id(1, os.urandom(10))


@pytest.mark.parametrize(("now_ms", "entropy"), [(1, b"short"), (-1, bytes(10)), (1 << 48, bytes(10))])
def test_ids_refuse_what_does_not_fit(now_ms: int, entropy: bytes) -> None:
    with pytest.raises(ValueError, match=r"random bytes|48 bits"):
        make_job_id(now_ms, entropy)


@pytest.mark.parametrize(
    "text", ["", "job_", "job_" + "g" * 32, "job_" + "0" * 33, "x" + "0" * 36, "job_" + "0" * 32 + "\n"]
)
def test_other_text_is_no_id(text: str) -> None:
    assert not is_job_id(text)


def test_lanes_run_in_their_order() -> None:
    priorities = [lane.engine_priority for lane in Lane]
    assert priorities == sorted(set(priorities))
    assert Lane.REALTIME not in SUBMITTABLE


def test_timings() -> None:
    t = Timings(queued_ms=1000, started_ms=1200, first_token_ms=1300, finished_ms=2200)
    assert (t.queue_ms, t.total_ms) == (200, 1200)
    assert t.tokens_per_s(Usage(5, 50, 55)) == 50.0
    assert t.tokens_per_s(None) is None
    early = Timings(queued_ms=1000)
    assert (early.queue_ms, early.total_ms, early.tokens_per_s(Usage(1, 1, 2))) == (None, None, None)


@given(st.text())
def test_text_survives_the_log(text: str) -> None:
    assert decode(encode(Text(text))) == Text(text)
    assert decode(encode(Text(text, reasoning=True))) == Text(text, reasoning=True)


@given(st.lists(st.text().filter(lambda t: "\n" not in t), min_size=1).map(tuple), st.text(), st.text())
def test_head_and_frames_survive_the_log(frames: tuple[str, ...], pre: str, post: str) -> None:
    assert decode(encode(Frames(frames))) == Frames(frames)
    assert decode(encode(Head(frames, pre, post))) == Head(frames, pre, post)
    both = Head(frames, pre, post, reasoning=(post, pre))
    assert decode(encode(both)) == both


def test_neighbours_merge_only_with_their_like() -> None:
    assert merge(Text("a"), Text("b")) == Text("ab")
    assert merge(Frames(("1",)), Frames(("2", "3"))) == Frames(("1", "2", "3"))
    assert merge(Text("a", reasoning=True), Text("b", reasoning=True)) == Text("ab", reasoning=True)
    assert merge(Text("a", reasoning=True), Text("b")) is None
    assert merge(Text("a"), Frames(("1",))) is None
    assert merge(Head((), "", ""), Text("a")) is None


def test_other_kinds_are_no_chunks() -> None:
    with pytest.raises(ValueError, match="kind 'e'"):
        decode("e{}")


def test_a_jobs_id_may_name_its_cell() -> None:
    plain, in_a_cell = (
        make_job_id(1_796_000_000_000, bytes(10)),
        make_job_id(1_796_000_000_000, bytes(10), "eu1"),
    )
    assert in_a_cell.startswith("job_eu1_")
    assert is_job_id(plain)
    assert is_job_id(in_a_cell)
    assert (cell_of(plain), cell_of(in_a_cell)) == ("", "eu1")
    assert made_ms(in_a_cell) == 1_796_000_000_000
    for text in ("job_EU_" + plain[4:], "job_eu1-" + plain[4:], "job__" + plain[4:], "batch_" + plain[4:]):
        with pytest.raises(ValueError, match="no job's id"):
            cell_of(text)
