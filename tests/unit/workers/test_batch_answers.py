"""The answers that a worker keeps for identical rows of a batch."""

from __future__ import annotations

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
