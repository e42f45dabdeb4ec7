"""The checker can fail: what is broken on purpose is seen. And the readers of streams see a repeated or missing token."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from tests.chaos.checker import Checker
from tests.chaos.ledger import Ledger, Submission, Try
from tests.chaos.round import Round
from tests.chaos.streams import EventReader, OpenAIReader

JOB = {"choices": [{"delta": {"content": "x"}}]}


def broken(faults: Round, tamper: Callable[[Redis, Ledger], object]) -> set[str]:
    """The promises that the checker finds broken after tampering."""
    ledger = copy.deepcopy(faults.ledger)
    with faults.stack.admin() as client:
        tamper(client, ledger)
    Checker(faults.stack, ledger, faults.observer).check(faults.seen)
    return {one["invariant"] for one in ledger.violations}


@pytest.mark.xdist_group("chaos")
@pytest.mark.asyncio(loop_scope="session")
async def test_what_is_broken_on_purpose_is_seen(stack, a_round) -> None:
    async with a_round(mix={"poll": 2, "follow": 1, "keyed": 1}) as faults:
        await faults.work(40)
    faults.assert_kept()
    assert broken(faults, lambda client, ledger: None) == set()
    keys = stack.keys
    jobs = [job for sub in faults.ledger.submissions.values() if sub.seen for job in sub.seen]
    one, two, three, four, five = (keys("job", job) for job in jobs[:5])

    def started_again(_: Redis, __: Ledger) -> None:
        line = next(line for line in stack.journal.read_text().splitlines() if jobs[0] in line)
        with stack.journal.open("a") as journal:
            journal.write(line + "\n")

    assert broken(faults, started_again) >= {"each attempt runs at most once"}
    assert broken(faults, lambda client, _: client.hset(one, "state", "cancelled")) >= {
        "terminal states never change"
    }
    assert broken(faults, lambda client, _: client.hset(two, "attempt", 3)) >= {
        "attempts are counted one by one"
    }
    lost = json.dumps(
        [
            {
                "attempt": 1,
                "worker": f"w1@here-{stack.workers[0].life.pid}-ab",
                "reason": "worker_lost",
                "ended_ms": 1,
            }
        ]
    )
    assert broken(faults, lambda client, _: client.hset(three, mapping={"hist": lost, "attempt": 2})) >= {
        "no attempt is taken from a worker that is well"
    }
    assert broken(faults, lambda client, _: client.hset(four, "state", "running")) >= {
        "every accepted job ends"
    }
    with stack.admin() as client:
        client.hset(
            four, "state", "succeeded"
        )  # or the next rounds would find the queue's parts in disagreement
    error: dict[Any, Any] = {"state": "failed", "error": '{"code": "internal_error"}'}
    assert broken(faults, lambda client, _: client.hset(five, mapping=error)) >= {
        "faults fail no job but for what they did to it"
    }

    def refused(_: Redis, ledger: Ledger) -> None:
        sub = next(sub for sub in ledger.submissions.values() if sub.ids)
        sub.kind, sub.key, sub.tries, sub.ids = "poll", None, [Try("", 0, 503, "redis_unavailable")], set()

    assert broken(faults, refused) >= {"a submission answered 5xx never ran"}

    def twice(_: Redis, ledger: Ledger) -> None:
        del ledger.submissions[next(iter(ledger.submissions))]

    assert broken(faults, twice) >= {"no job comes from nowhere"}


def read(*events: tuple[str, str, dict]) -> EventReader:
    reader = EventReader()
    for eid, name, data in events:
        for line in (f"id: {eid}", f"event: {name}", f"data: {json.dumps(data)}", ""):
            reader.feed(line)
    return reader


def test_the_reader_of_events_sees_repetitions_and_silent_restarts() -> None:
    good = read(("1-0", "running", {}), ("1-1", "chunk", JOB), ("1-2.1", "chunk", JOB), ("1-2", "chunk", JOB))
    assert (good.problems, good.texts) == ([], {1: "xxx"})
    assert read(("1-0", "running", {}), ("1-1", "chunk", JOB), ("1-1", "chunk", JOB)).problems
    assert read(("1-0", "running", {}), ("1-1", "chunk", JOB), ("2-1", "chunk", JOB)).problems
    assert read(("1-0", "running", {}), ("2-0", "running", {})).problems
    assert not read(("1-0", "running", {}), ("2-0", "restarted", {}), ("2-1", "chunk", JOB)).problems
    assert read(("1-4294967295", "succeeded", {"attempt": 1}), ("2-0", "restarted", {})).problems


def test_a_half_event_counts_for_nothing() -> None:
    reader = read(("1-0", "running", {}))
    reader.feed("id: 1-1")
    reader.drop()
    assert not reader.feed("")
    assert reader.cursor == "1-0"


def test_the_reader_of_an_openai_stream() -> None:
    reader = OpenAIReader()
    for data in (json.dumps(JOB), '{"error": {"code": "worker_lost"}}', "[DONE]"):
        reader.feed(f"data: {data}")
    assert (reader.text, reader.error, reader.done) == ("x", "worker_lost", True)


def test_the_ledger_sees_a_terminal_state_change() -> None:
    ledger = Ledger()
    sub = ledger.open(Submission("m", "poll"))
    for state in ("queued", "running", "succeeded", "succeeded"):
        ledger.see(sub, "job", state)
    assert not ledger.violations
    ledger.see(sub, "job", "queued")
    assert len(ledger.violations) == 1
