"""What a worker asks next, by its room and by the answers that it got."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker.celery import claimer as module
from broker.celery.claimer import MOST_BULK, Claimer, Room
from broker.db.calls.attempts import Claim as Call
from broker.db.calls.attempts import Claimed, ClaimedJob
from broker.db.keys import Keys
from broker.records import Facts
from broker.sealing import Sealer
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.lanes import Lane
from tests.support import new_id

OWN, BELL, BULK = "n:bell:w", "n:pool:p:bell", "n:pool:p:bell:bulk"
FACTS = msgspec.json.encode(Facts(endpoint="/v1/completions", model="m", max_attempts=3))


class Scene:
    """A claimer, its room, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.room = Room(4, 4, 1, 0.02)
        self.returned: list[str] = []
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        self.claimer = Claimer(
            "w",
            keys=Keys("n"),
            pool="p",
            message=lambda job_id, queue: {"id": job_id, "queue": queue},
            retention_ms=1000,
            sealer=Sealer(None),
            room=lambda: self.room,
            give_back=self.returned.extend,
        )

    def asks(self) -> Call:
        """Return the claim that it sends now."""
        command = self.claimer.command()
        assert command is not None
        assert command[0] == "FCALL", command
        assert command[2:4] == (0, "n")
        call = command[4]
        assert isinstance(call, bytes)
        return msgspec.msgpack.decode(call, type=Call)

    def waits(self) -> tuple[list[Any], float]:
        """Return the bells that it waits for now, and for how long."""
        command = self.claimer.command()
        assert command is not None
        assert command[0] == "BLPOP", command
        return list(command[1:-1]), float(command[-1])

    def answers(self, count: int = 0, facts: bytes = FACTS, lane: Lane = Lane.LOW, **more: Any) -> list[str]:
        """Answer a claim with so many jobs, and return those that it read."""
        jobs = tuple(
            ClaimedJob(id=new_id(), attempt=1, lane=lane, tenant="t", waited_ms=0, age_ms=0)
            for _ in range(count)
        )
        head = msgspec.msgpack.encode(Claimed(jobs=jobs, **more))
        return [claim.id for claim in self.claimer.receive([head, *[facts, b"{}"] * count])]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_it_asks_for_what_it_has_room_for_and_at_once_again_if_it_got_all_of_it(scene: Scene) -> None:
    scene.room = Room(50, 2, 0, 0.02)
    call = scene.asks()
    assert (call.worker, call.pool, call.room, call.bulk_room, call.suspects) == ("w", "p", 32, 2, 0)
    assert len(scene.answers(32, left=True)) == 32
    assert scene.asks().token != call.token


def test_what_leaves_nothing_is_no_reason_to_ask_again_even_if_room_comes(scene: Scene) -> None:
    """A worker at its bound whose callers wait for its answers: a claim before the next call has come gets nothing, and many
    such claims would count as bells that ring for nothing.
    """
    scene.room = Room(4, 0, 0, 0.02)
    scene.asks()
    scene.answers(4)
    scene.room = Room(0, 0, 1, 0.02)
    assert scene.claimer.command() is None
    scene.room = Room(2, 2, 1, 0.02)
    assert scene.waits() == ([OWN, BELL, BULK], 1.0)
    scene.claimer.receive([BELL.encode(), b"1"])
    assert scene.asks().room == 2


def test_bulk_is_claimed_in_small_bites_and_asked_for_while_there_is_room(scene: Scene) -> None:
    """A call waits for the answer to a claim of bulk, and until Celery has taken it."""
    scene.room = Room(200, 100, 1, 0.02)
    call = scene.asks()
    assert (call.room, call.bulk_room) == (32, MOST_BULK)
    scene.answers(MOST_BULK, lane=Lane.BULK, left=True)
    assert scene.asks().bulk_room == MOST_BULK  # at once: there is more
    scene.answers(MOST_BULK, lane=Lane.BULK, left=True)
    scene.room = Room(200, 0, 1, 0.005)
    assert scene.waits() == (
        [OWN, BELL],
        0.005,
    )  # there is no other work: only room for bulk, or a bell, is a reason
    scene.claimer.receive(None)
    scene.room = Room(200, 1, 1, 0.02)
    bells, wait_s = scene.waits()  # small bites are not too small
    assert bells == [OWN, BELL]
    assert wait_s == pytest.approx(0.005)
    scene.claimer.receive(None)
    scene.now += 0.005
    assert scene.asks().bulk_room == 1


def test_less_bulk_than_there_was_room_for_is_all_that_there_is(scene: Scene) -> None:
    scene.room = Room(200, 100, 1, 0.02)
    scene.asks()
    scene.answers(MOST_BULK - 1, lane=Lane.BULK)
    assert scene.waits() == ([OWN, BELL, BULK], 1.0)


def test_a_claim_that_a_chunk_ended_may_have_left_more(scene: Scene) -> None:
    """It asks at once for other work, and for the next chunk as soon as it may have one."""
    chunk = msgspec.json.encode(Facts(endpoint=CHUNK_ENDPOINT, model="m", max_attempts=3))
    assert scene.asks().chunk_lanes == len(Lane)
    scene.answers(1, chunk, left=True)
    scene.room = Room(4, 4, 1, 0.02, chunk_lanes=2)
    assert scene.asks().chunk_lanes == 2
    scene.answers(left=True)
    assert scene.waits() == ([OWN, BELL, BULK], 0.02)
    scene.claimer.receive(None)
    scene.room = Room(4, 4, 1, 0.02)
    assert scene.asks().chunk_lanes == len(Lane)


def test_without_room_it_asks_nothing(scene: Scene) -> None:
    scene.room = Room(0, 0, 1, 0.02)
    assert scene.claimer.command() is None


def test_after_less_than_it_asked_for_it_waits_for_the_bells(scene: Scene) -> None:
    scene.asks()
    scene.answers(3)
    assert scene.waits() == ([OWN, BELL, BULK], 1.0)
    assert scene.claimer.receive([BELL.encode(), b"1"]) == []
    scene.asks()
    scene.answers()
    assert scene.waits()[0] == [OWN, BELL, BULK]
    scene.claimer.receive(None)
    scene.now += 1.0  # nobody rang
    scene.asks()


@pytest.mark.parametrize("room", [Room(4, 0, 1, 0.02), Room(4, 4, 0, 0.02)])
def test_room_that_comes_is_a_reason_to_ask(scene: Scene, room: Room) -> None:
    roomy, scene.room = scene.room, room
    scene.asks()
    scene.answers(left=True)
    bells, wait_s = scene.waits()
    assert (BULK in bells, wait_s) == (room.bulk > 0, 0.02)
    scene.claimer.receive(None)
    assert scene.waits()[1] == 0.02
    scene.claimer.receive(None)
    scene.room = roomy
    scene.asks()


def test_a_job_that_is_left_to_another_worker_is_asked_for_soon(scene: Scene) -> None:
    scene.asks()
    scene.answers(ask_again_ms=20)
    assert scene.waits()[1] == pytest.approx(0.02)
    scene.claimer.receive(None)
    scene.now += 0.02
    scene.asks()


def test_after_a_broken_connection_it_asks_with_the_same_token(scene: Scene) -> None:
    call = scene.asks()
    scene.room = Room(0, 0, 1, 0.02)
    for _ in range(2):
        again = scene.asks()
        assert (again.token, again.again) == (call.token, True)
    scene.room = Room(4, 4, 1, 0.02)
    scene.answers()
    fresh = scene.asks()
    assert fresh.token != call.token
    assert not fresh.again


def test_a_bell_that_was_lost_with_its_connection_is_made_up_for(scene: Scene) -> None:
    scene.asks()
    scene.answers()
    scene.waits()
    scene.asks()  # on the next connection


def test_without_a_lease_it_stops_asking_for_a_while(scene: Scene) -> None:
    scene.asks()
    scene.answers(fenced=True)
    assert scene.waits() == ([OWN], 1.0)
    scene.claimer.receive([OWN.encode(), b"1"])
    assert scene.waits()[0] == [OWN]
    scene.claimer.receive(None)
    scene.now += 1.0
    scene.asks()


@pytest.mark.parametrize("bulk", [0, 4])
def test_bells_that_ring_for_nothing_are_heard_so_often(scene: Scene, bulk: int) -> None:
    scene.room = Room(4, bulk, 1, 0.02)

    def claims(seconds: float) -> int:
        count, until = 0, scene.now + seconds
        while scene.now < until:
            command = scene.claimer.command()
            assert command is not None
            if command[0] == "FCALL":
                count += 1
                scene.answers()
            else:
                bells = command[
                    1:-1
                ]  # its own rings only for a job that is left to it, and is waited for alone in a pause
                scene.claimer.receive([str(bells[1]).encode(), b"1"] if len(bells) > 1 else None)
            scene.now += 0.001
        return count

    assert claims(1.0) <= 42
    assert claims(10.0) <= 210


def test_claims_are_taken_or_given_back(scene: Scene) -> None:
    scene.asks()
    first, second, third = scene.answers(3)
    assert scene.claimer.ids() == {first, second, third}
    assert scene.claimer.take(second).id == second
    with pytest.raises(LookupError):
        scene.claimer.take(second)
    scene.claimer.return_the_rest()
    assert scene.returned == [first, third]
    assert scene.claimer.ids() == frozenset()
    assert scene.waits() == ([OWN], 1.0)  # not at once again
    scene.claimer.return_the_rest()
    assert len(scene.returned) == 2


def test_a_message_goes_to_the_queue_of_its_lane(scene: Scene) -> None:
    scene.asks()
    (job_id,) = scene.answers(1)
    queue, message = scene.claimer.message(scene.claimer.take(job_id))
    assert (queue, message) == ("n.p.low", {"id": job_id, "queue": "n.p.low"})


def test_a_record_that_cannot_be_read_costs_no_other(scene: Scene) -> None:
    scene.asks()
    good = ClaimedJob(id="good", attempt=1, lane="low", tenant="t", waited_ms=0, age_ms=0)
    bad = ClaimedJob(id="bad", attempt=1, lane="low", tenant="t", waited_ms=0, age_ms=0)
    head = msgspec.msgpack.encode(Claimed(jobs=(bad, good)))
    assert [claim.id for claim in scene.claimer.receive([head, b"?", b"{}", FACTS, b"{}"])] == ["good"]
    assert scene.claimer.ids() == {"good"}
