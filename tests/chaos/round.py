"""One round: load begins, faults happen, all of it heals and grows quiet, and the checker looks."""

from __future__ import annotations

import json
import random
from types import TracebackType
from typing import Any, Self

from tests.chaos.checker import Checker, Observer, Takeover, quiet
from tests.chaos.children import Child
from tests.chaos.faults import Fault, Scene, inflict
from tests.chaos.ledger import Ledger
from tests.chaos.load import Load
from tests.chaos.stack import Stack
from tests.invariants import check_queues
from tests.support import eventually

_SHOWN = 8


class Round:
    """Use as ``async with``; leaving the block heals the stack and checks everything.

    Args:
        stack: a stack that serves.
        seed: of everything that is drawn; the same seed draws the same.
        patience_s: how long after the end of load and faults every job may take to end.
        stalls_s: see :class:`~tests.chaos.faults.Scene`.
        load: see :class:`~tests.chaos.load.Load`.

    Attributes:
        ledger: what the clients saw, the figures, and the violations.
        takeovers: how long the jobs of lost workers waited for their next start.
        seen: digests of terminal records, as they were first seen.
    """

    def __init__(
        self,
        stack: Stack,
        seed: str,
        *,
        patience_s: float = 60.0,
        stalls_s: tuple[float, ...] = (1.0, 2.0, 4.0),
        **load: Any,
    ) -> None:
        self.stack = stack
        self.seed = seed
        self.ledger = Ledger()
        self.takeovers: list[Takeover] = []
        self.seen: dict[str, str] = {}
        self._patience_s = patience_s
        self.scene = Scene(stack, self.ledger, random.Random(f"{seed}/faults"), stalls_s)
        self._load = Load(stack, self.ledger, seed, **load)

    async def inflict(self, fault: Fault) -> None:
        """Let a fault happen, and its harm pass."""
        await inflict(fault, self.scene)

    async def work(self, jobs: int = 15) -> None:
        """Wait until the clients were told the end of that many more submissions: the load goes on, fault or none."""
        goal = self.ledger.answered + jobs
        await eventually(lambda: self.ledger.answered >= goal, 60.0)

    async def busy_worker(self) -> Child:
        """Wait until every worker serves and one runs jobs; return the one that holds the most.

        Not until each holds some: one may take all that wait, and would be about to end them when the other gets its first.
        A worker holds a job from its claim on, but gives it back as not delivered until it has begun with it.
        """
        await self.stack.ready()

        def held() -> dict[Child, int] | None:
            jobs = self.stack.jobs_held()
            return jobs if any(jobs.values()) else None

        jobs = await eventually(held, 30.0)
        busy = max(jobs, key=lambda worker: jobs[worker])
        await eventually(lambda: self._has_begun(busy), 30.0)
        return busy

    def _has_begun(self, worker: Child) -> bool:
        """Whether a worker's present process has begun with a job in this round."""
        with self.stack.journal.open("rb") as journal:
            journal.seek(self.observer.journal_start)
            return b'"pid":%d}' % worker.life.pid in journal.read()

    async def __aenter__(self) -> Self:
        self.stack.note("round", seed=self.seed)
        self.observer = Observer(self.stack)
        self.observer.start()
        self._load.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._load.hold()
        if error is not None:
            await self._load.finish(0.0)
            await self.observer.stop()
            return
        await self.stack.heal()
        await self._load.finish(self._patience_s)
        if not await quiet(self.stack, self._patience_s):
            self.ledger.break_("every job ends", seed=self.seed, patience_s=self._patience_s)
        self.seen = await self.observer.stop()
        with self.stack.admin() as client:
            try:
                check_queues(client, self.stack.keys)
            except AssertionError as disagreement:
                self.ledger.break_("the parts of the queue agree", where=str(disagreement)[:500])
        checker = Checker(self.stack, self.ledger, self.observer)
        checker.check(self.seen)
        self.takeovers = checker.takeovers
        for one in self.ledger.violations:
            self.stack.note("broken", **{k: v for k, v in one.items() if k != "time"})
        self.stack.note("checked", seed=self.seed, counts=self.ledger.counts)

    def assert_kept(self) -> None:
        """Fail where a promise was broken, with what is needed to look into it."""
        broken = self.ledger.violations
        told = "\n".join(json.dumps(one, indent=1, default=str)[:4000] for one in broken[:_SHOWN])
        assert not broken, (
            f"seed {self.seed!r}, logs in {self.stack.folder}: {len(broken)} broken promises\n{told}"
        )
