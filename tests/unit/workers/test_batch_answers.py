"""The answers that a worker keeps for identical rows of a batch."""

from __future__ import annotations

from jobs.batch_lines import Response
from jobs.batch_model import Counts
from workers.batches.answers import MOST_ANSWER_BYTES, Answer, Answers


def answer(size: int = 1000) -> Answer:
    return Answer(Response(200, b"{}", "id"), "ok", Counts(), size)


def test_an_answer_is_of_its_batch_and_of_the_same_bytes() -> None:
    answers, one = Answers(), answer()
    answers.put("batch_a", b"body", one)
    assert answers.get("batch_a", b"body") is one
    assert answers.get("batch_b", b"body") is None
    assert answers.get("batch_a", b"body ") is None


def test_what_was_used_least_recently_goes_when_there_is_too_much() -> None:
    answers = Answers(most_bytes=4000)
    for name in (b"a", b"b"):
        answers.put("batch", name, answer())
    assert answers.get("batch", b"a") is not None
    answers.put("batch", b"c", answer())
    assert [answers.get("batch", name) is not None for name in (b"a", b"b", b"c")] == [True, False, True]


def test_a_long_answer_is_not_kept_and_all_can_be_forgotten() -> None:
    answers = Answers()
    answers.put("batch", b"long", answer(MOST_ANSWER_BYTES + 1))
    answers.put("batch", b"short", answer())
    assert answers.get("batch", b"long") is None
    answers.clear()
    assert answers.get("batch", b"short") is None
