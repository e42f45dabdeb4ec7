"""What a worker asks of its pool's queue: the next jobs while it has room, and else to be woken by the bells.

A claim that gets less than it asked for, or leaves nothing, has found all that this worker may take. Then it waits: for the
bell that ``accept`` rings, for those that ring on what they leave, or for a change of its own room. It also asks once a
second, in case the bell that rang for it was lost with a connection.

The claims that Redis gave and Celery has not handed to the pool yet are kept here, so that each is either taken or given
back.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic, time_ns
from typing import Any, Final, TypeAlias

import structlog
from msgspec.structs import replace

from broker.claims import Claim, claims_of
from broker.db.calls.attempts import Claim as Call
from broker.db.calls.attempts import Claimed
from broker.db.keys import Keys
from broker.db.library import answer_to, library
from broker.sealing import Sealer
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.lanes import Lane
from jobs.model import SCHEMA_VERSION

log = structlog.get_logger(__name__)

Command: TypeAlias = tuple[str | bytes | int | float, ...]

MOST: Final = 32
"""Most jobs of one claim."""

MOST_BULK: Final = 8
"""Of these, most of the lane ``bulk``. A call that comes meanwhile waits until Redis has answered and Celery has taken them
all: for 32 jobs 0.6 ms and some 4 ms, for 8 a third of that. Redis spends 3 us more on each."""

_BITES_APART_S = 0.005
"""Claims for less bulk than that come no closer: a few jobs at once cost less than one by one."""

_ASK_ANYWAY_S = 1.0
_PAUSE_S = 1.0
"""Without a lease, and after Celery has not delivered a claim: the same would happen again at once."""

_LEAST_WAIT_S = 0.001
"""Redis would wait for ever for 0."""

_EMPTY_PER_S = 20.0
"""Claims that may find nothing, in a second and at once. The bell may ring for what others take first."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a worker may take now.

    Attributes:
        jobs: of any lane; ``bulk``: of the lane ``bulk``, ``suspects``: under which an engine died.
        recheck_s: in what time this may change while it waits.
        chunk_lanes: from how many lanes, the highest first, it may take a chunk.
    """

    jobs: int
    bulk: int
    suspects: int
    recheck_s: float
    chunk_lanes: int = len(Lane)

    @property
    def whole(self) -> bool:
        """Whether it lets every kind of work in."""
        return self.bulk > 0 < self.suspects and self.chunk_lanes >= len(Lane)

    def more_than(self, other: Room) -> bool:
        """Whether it lets a kind of work in that the other does not."""
        return (
            self.bulk > 0 >= other.bulk
            or self.suspects > 0 >= other.suspects
            or self.chunk_lanes > other.chunk_lanes
        )


_ALL = Room(MOST, MOST_BULK, 1, 0.0)


class Claimer:
    """Asks for one worker; it outlives every connection. All of it is called by Celery's thread, except :meth:`ids`.

    Args:
        worker: the incarnation.
        message: makes a job's Celery message from its id and its queue.
        sealer: opens the jobs' requests.
        room: says what it may take.
        give_back: gets the jobs of claims that Celery did not deliver.

    Attributes:
        asked_ns: when the last claim was sent, Unix nanoseconds.
        rests: how often it had no room and nothing to wait for. Once that grows, no claim is on its way.
    """

    def __init__(
        self,
        worker: str,
        *,
        keys: Keys,
        pool: str,
        message: Callable[[str, str], dict[str, Any]],
        retention_ms: int,
        sealer: Sealer,
        room: Callable[[], Room],
        give_back: Callable[[Sequence[str]], None],
    ) -> None:
        self._worker, self._keys, self._pool = worker, keys, pool
        self._message, self._retention_ms = message, retention_ms
        self._sealer, self._room, self._give_back = sealer, room, give_back
        self._call: Call | None = None  # whose answer has not come
        self._waiting = False  # for a bell, by the last command
        self._satisfied: Room | None = None  # with what there is, for this room; None: there may be more
        self._ask_at = self._pause_until = self._empty_until = self._bulk_at = 0.0
        self._empty_left, self._empty_at = _EMPTY_PER_S, monotonic()
        self._claims: dict[str, Claim] = {}
        self.asked_ns = self.rests = 0

    @property
    def own_bell(self) -> str:
        """The bell that rings for this worker alone."""
        return self._keys("own_bell", self._worker)

    @property
    def waiting(self) -> bool:
        """Whether the last command waits for a bell, and has no reply yet."""
        return self._waiting

    # ---- the transport -----------------------------------------------------------------------------------------

    def command(self) -> Command | None:
        """Return the command to send now; None: there is no room. Its reply goes to :meth:`receive`, if it comes."""
        room, now = self._room(), monotonic()
        if 0 < room.bulk < MOST_BULK and now < self._bulk_at:
            room = dataclasses.replace(room, bulk=0, recheck_s=min(room.recheck_s, self._bulk_at - now))
        if self._waiting:  # the connection broke, and whoever rings believes that this worker woke up
            self._waiting, self._satisfied = False, None
        if self._call is not None:
            self._call = replace(self._call, again=True)
            return self._ask(self._call)
        if room.jobs <= 0:
            self.rests += 1
            return None
        if (until := max(self._pause_until, self._empty_until)) > now:
            return self._wait([self.own_bell], until - now)
        if self._satisfied is None or now >= self._ask_at or room.more_than(self._satisfied):
            self._satisfied = room
            self._call = Call(
                worker=self._worker,
                pool=self._pool,
                room=min(room.jobs, MOST),
                bulk_room=min(room.bulk, MOST_BULK),
                suspects=room.suspects,
                chunk_lanes=room.chunk_lanes,
                version=SCHEMA_VERSION,
                retention_ms=self._retention_ms,
                token=secrets.token_hex(8),
            )
            return self._ask(self._call)
        bells = [self.own_bell, self._keys("bell", self._pool)]
        if room.bulk > 0:
            bells.append(self._keys("bulk_bell", self._pool))
        wait_s = self._ask_at - now
        return self._wait(bells, wait_s if room.whole else min(wait_s, room.recheck_s))

    def _ask(self, call: Call) -> Command:
        self.asked_ns = time_ns()
        return library().command(self._keys.namespace, call)

    def _wait(self, bells: list[str], wait_s: float) -> Command:
        self._waiting = True
        return ("BLPOP", *bells, max(wait_s, _LEAST_WAIT_S))

    def receive(self, reply: Any) -> list[Claim]:
        """Read the reply to the last command. Return the claims that it brings, each of which is taken, or given back."""
        if self._waiting:
            self._waiting = False
            if reply is not None:
                self._satisfied = None
                self._empty_until = 0.0  # it rang for this worker alone: a job is left to it, for a moment
            return []
        call, self._call = self._call, None
        answer, blobs = answer_to(Call, reply)
        claims = list(self._read(answer, blobs))
        self._claims |= {claim.id: claim for claim in claims}
        if call is not None:
            self._consider(answer, call, chunk=any(one.endpoint == CHUNK_ENDPOINT for one in claims))
        return claims

    def _consider(self, answer: Claimed, call: Call, *, chunk: bool) -> None:
        """Decide when to ask again. ``chunk``: there was a chunk, which ends a claim whatever else waits."""
        now, bulk = monotonic(), sum(job.lane == Lane.BULK for job in answer.jobs)
        self._ask_at = now + _ASK_ANYWAY_S
        if bulk:
            self._bulk_at = now + _BITES_APART_S
        if answer.ask_again_ms is not None:
            self._ask_at = min(self._ask_at, now + answer.ask_again_ms / 1000)
        if answer.fenced:
            self._pause_until = now + _PAUSE_S
        elif call.again or (answer.left and (chunk or len(answer.jobs) >= call.room)):
            self._satisfied = None
        elif not answer.left:
            self._satisfied = _ALL  # more room is no reason to ask
        elif self._satisfied is not None and bulk >= max(1, call.bulk_room):
            self._satisfied = dataclasses.replace(self._satisfied, bulk=0)  # there may be more of it
        if not (answer.jobs or answer.fenced):
            self._empty_left = min(_EMPTY_PER_S, self._empty_left + (now - self._empty_at) * _EMPTY_PER_S) - 1
            self._empty_at = now
            if self._empty_left < 0:
                self._empty_until = now + 1 / _EMPTY_PER_S

    def _read(self, answer: Claimed, blobs: list[bytes]) -> Iterator[Claim]:
        for place, job in enumerate(answer.jobs):
            try:
                yield from claims_of(Claimed(jobs=(job,)), blobs[2 * place : 2 * place + 2], self._sealer)
            except Exception:  # its record would end every worker in turn
                log.exception("claim_unreadable", job_id=job.id)

    # ---- Celery's messages -------------------------------------------------------------------------------------

    def message(self, claim: Claim) -> tuple[str, dict[str, Any]]:
        """Return the queue that a claim's lane is for Celery, and its message."""
        queue = self._keys("queue", self._pool, claim.lane)
        return queue, self._message(claim.id, queue)

    def take(self, job_id: str) -> Claim:
        """Take the claim whose message was delivered.

        Raises:
            LookupError: there is none.
        """
        return self._claims.pop(job_id)

    def return_the_rest(self) -> None:
        """Give back what Celery did not deliver: its own revoked list, or an error, was in the way."""
        if not self._claims:
            return
        ids, self._claims = list(self._claims), {}
        log.warning("claims_not_delivered", jobs=ids)
        self._pause_until = monotonic() + _PAUSE_S
        self._give_back(ids)

    def ids(self) -> frozenset[str]:
        """Return the jobs of the claims that are here. From any thread."""
        return frozenset(list(self._claims))

    def __json__(self) -> str:
        """Return the pool. It is a transport option, which ``inspect stats``, and so Flower, writes as JSON."""
        return self._pool
