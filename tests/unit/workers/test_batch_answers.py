"""The answers that a worker keeps for identical rows of a batch."""

from __future__ import annotations

import asyncio

import pytest

from jobs.batch_lines import Response
from jobs.batch_model import Counts
from jobs.endpoints import CHAT
from workers.batches.answers import MOST_ANSWER_BYTES, Answer, Answers, key_of

GREEDY = b'{"temperature":0}'


def answer(size: int = 1000) -> Answer:
    return Answer(Response(200, b"{}", "id"), "ok", Counts(), size)


def test_a_key_is_of_a_batch_and_of_the_same_bytes() -> None:
    keys = [key_of(batch, CHAT, body) for batch in ("batch_a", "batch_b") for body in (GREEDY, GREEDY + b" ")]
    assert None not in keys
    assert len(set(keys)) == 4
    assert key_of("batch_a", CHAT, bytes(bytearray(GREEDY))) == keys[0]


def test_a_row_whose_answer_is_not_fixed_has_no_key() -> None:
    assert key_of("batch_a", CHAT, b'{"temperature":0.5}') is None
    assert key_of("batch_a", CHAT, b"{}") is None


def test_what_was_used_least_recently_goes_when_there_is_too_much() -> None:
    answers = Answers(most_bytes=4000)
    for name in (b"a", b"b"):
        answers.put(name, answer())
    assert answers.get(b"a") is not None
    answers.put(b"c", answer())
    assert [answers.get(name) is not None for name in (b"a", b"b", b"c")] == [True, False, True]


def test_a_long_answer_is_not_kept_and_all_can_be_forgotten() -> None:
    answers = Answers()
    answers.put(b"long", answer(MOST_ANSWER_BYTES + 1))
    answers.put(b"short", answer())
    assert answers.get(b"long") is None
    answers.clear()
    assert answers.get(b"short") is None


@pytest.mark.asyncio
async def test_rows_wait_for_the_one_that_runs() -> None:
    answers, one = Answers(), answer()
    assert answers.wait(b"a", 10) is None
    assert answers.begin(b"a")
    assert not answers.begin(b"a")
    waiters = [answers.wait(b"a", 10) for _ in range(3)]
    assert None not in waiters
    waiters[0].cancel()
    answers.end(b"a", one)
    assert [await waiter for waiter in waiters[1:]] == [one, one]
    assert answers.wait(b"a", 10) is None
    assert answers.get(b"a") is None  # it is kept only if it is put


@pytest.mark.asyncio
async def test_not_too_many_wait() -> None:
    answers = Answers(most_waiting_bytes=10_000)
    answers.begin(b"a")
    assert answers.wait(b"a", 10_000) is None
    first = answers.wait(b"a", 6000)
    assert first is not None
    assert answers.wait(b"a", 6000) is None
    first.cancel()
    await asyncio.sleep(0)
    assert answers.wait(b"a", 6000) is not None
    answers.end(b"a", None)
