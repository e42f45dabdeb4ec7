"""Tasks that the api asks of the coordinators: long work on one batch, which no request loop may do itself.

One task of a kind runs at a time for a batch; further callers wait for the same answer. A coordinator takes a task
with a lease. If it dies, another takes the task again under the next attempt, and only the latest attempt can answer.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from broker.db.calls.tasks import TaskAsk, TaskEnd, TaskKeep, TaskTake
from broker.db.errors import NoCoordinatorError
from broker.jobs import StorePart

_WAITING_MS = 86_400_000
_ANSWERED_MS = 60_000
_MOST_LOOKED_AT = 100
_NO_COORDINATOR = "no coordinator is running, so nothing looks after batches: start `penstock coordinator`"


class TaskKind(StrEnum):
    """What a coordinator can be asked to do with a batch."""

    VERIFY = "verify"
    RETRY = "retry"


_KINDS = {kind.value for kind in TaskKind}


@dataclass(frozen=True, slots=True)
class Task:
    """A task as one coordinator has it.

    Attributes:
        args: of the kind, as JSON values.
        run: which asking of this task it is; a later one has a larger number.
        attempt: how often the run was taken, from 1.
        deaths: how many of the earlier attempts neither answered it nor gave it back.
    """

    kind: TaskKind
    batch: str
    args: Mapping[str, Any]
    run: int
    attempt: int
    deaths: int

    @property
    def fence(self) -> tuple[str, str, int, int]:
        """What a write must be of to have an effect."""
        return self.kind, self.batch, self.run, self.attempt


@dataclass(frozen=True, slots=True)
class Answer:
    """How a task ended.

    Attributes:
        result: JSON values; empty: it failed.
        error: the code of its failure; None: it succeeded.
        message: one sentence on the failure.
    """

    result: Mapping[str, Any]
    error: str | None = None
    message: str = ""

    def encode(self) -> str:
        """Write the answer."""
        return json.dumps([self.result, self.error, self.message])

    @classmethod
    def decode(cls, text: str) -> Answer:
        """Read what :meth:`encode` wrote."""
        return cls(*json.loads(text))


class TaskStore(StorePart):
    """Tasks in Redis."""

    # ---- the front ---------------------------------------------------------------------------------------------

    def topic(self, kind: TaskKind, batch_id: str) -> str:
        """Return the name under which the answer comes to :meth:`broker.events.hub.EventHub.inbox`."""
        return self._keys("task", kind.value, batch_id)

    async def ask(
        self,
        kind: TaskKind,
        batch_id: str,
        args: Mapping[str, Any],
        sink: str,
        *,
        owner: str | None = None,
    ) -> int:
        """Ask for a task, or join the callers that already wait for it.

        Args:
            args: for the coordinator; where the task is under way, those of the first caller count.
            sink: the api process to which the answer is published as an event: (run, answer).
            owner: the tenant that asks: another's batch does not exist for it. None: an admin.

        Returns:
            The run to wait for.

        Raises:
            NoCoordinatorError: none is alive.
            LookupError: there is no such batch for ``owner``.
        """
        told = json.dumps(dict(args))
        run = await self._call(TaskAsk(kind, batch_id, sink, told, _WAITING_MS, owner))
        if run is None:
            raise NoCoordinatorError(_NO_COORDINATOR)
        if run == 0:
            raise LookupError(batch_id)
        return run

    async def answer(self, kind: TaskKind, batch_id: str, run: int) -> Answer | None:
        """Read the answer to a run or to a later one; None: there is none yet.

        Raises:
            LookupError: the task is gone.
        """
        key = self._keys("task", kind.value, batch_id)
        at, answer = await self._execute(self._client.hmget(key, ("run", "answer")))
        if at is None:
            raise LookupError(batch_id)
        return Answer.decode(answer) if answer is not None and int(at) >= run else None

    # ---- the coordinator ---------------------------------------------------------------------------------------

    async def take(self, lease_s: float, coordinator: str = "") -> Task | None:
        """Take the task that has waited longest, for ``lease_s`` seconds; None: there is none.

        Tasks of a kind that only a later version knows are left for its coordinators.

        Args:
            coordinator: the id of the one that takes it; see :meth:`broker.coordinators.Coordinators.bury`.
        """
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        pipe.zrange(self._keys("tasks"), 0, _MOST_LOOKED_AT - 1, withscores=True)
        (now_s, _), waiting = await self._execute(pipe.execute())
        due = [name.partition(" ") for name, due_ms in waiting if due_ms < 1000 * (now_s + 1)]
        for kind, _, batch in due:
            if kind in _KINDS and (task := await self._take(TaskKind(kind), batch, lease_s, coordinator)):
                return task
        return None

    async def _take(self, kind: TaskKind, batch: str, lease_s: float, coordinator: str) -> Task | None:
        call = TaskTake(kind, batch, secrets.token_hex(8), int(lease_s * 1000), coordinator)
        taken = await self._call(call)
        if taken is None:
            return None
        return Task(kind, batch, json.loads(taken.args), taken.run, taken.attempt, taken.deaths)

    async def keep(self, task: Task, lease_s: float) -> bool:
        """Prolong the lease on a task; 0 seconds give the task back. False: another attempt has it."""
        return await self._call(TaskKeep(*task.fence, int(lease_s * 1000)))

    async def end(self, task: Task, answer: Answer) -> bool:
        """Answer a task. False: another attempt has it, or it has its answer."""
        return await self._call(TaskEnd(*task.fence, answer.encode(), _ANSWERED_MS))
