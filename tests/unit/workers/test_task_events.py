"""Which task events go out."""

from __future__ import annotations

from itertools import chain, repeat

from workers.celery.consumer import BoundedEvents


def run(allowed: list[bool], *events: tuple[str, str]) -> list[tuple[str, str]]:
    sent: list[tuple[str, str]] = []
    answers = chain(allowed, repeat(False))

    def dispatch(name: str, **fields: str) -> None:
        sent.append((name, fields["uuid"]))

    send = BoundedEvents(dispatch, lambda: next(answers))
    for name, job in events:
        send(name, uuid=job)
    assert not send._chosen, "it remembers jobs that are over"
    return sent


def life(job: str, end: str = "task-succeeded") -> list[tuple[str, str]]:
    return [("task-received", job), ("task-started", job), (end, job)]


def test_a_jobs_events_are_sent_all_or_none() -> None:
    assert run([True, False], *life("a"), *life("b")) == life("a")


def test_lives_that_overlap_do_not_mix() -> None:
    a, b, c = life("a"), life("b"), life("c")
    mixed = [event for events in zip(a, b, c, strict=True) for event in events]
    assert [event for event in mixed if event[1] != "b"] == run([True, False, True], *mixed)


def test_a_bad_end_is_always_told() -> None:
    assert run([False], *life("a", "task-failed")) == [("task-failed", "a")]
    assert run([False], *life("a", "task-revoked")) == [("task-revoked", "a")]


def test_the_workers_own_events_pass() -> None:
    assert run([], ("worker-heartbeat", ""), ("worker-online", "")) == [
        ("worker-heartbeat", ""),
        ("worker-online", ""),
    ]
