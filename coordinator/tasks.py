"""The tasks that the api asks for: taken with a lease, performed beside the batches, answered once."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from broker.db.errors import (
    FileGoneError,
    NoInputFileError,
    OverQuotaError,
    StoreError,
    StoreUnavailableError,
)
from broker.tasks import Answer, Task, TaskKind
from coordinator.context import Context
from coordinator.lease import under_lease
from coordinator.retry import retry
from coordinator.verify import verify
from monitoring import failpoints
from storage import StorageError

log = structlog.get_logger(__name__)

AT_ONCE = 4
"""Tasks that one coordinator performs at once."""

MOST_DEATHS = 5
"""Coordinators that may die of a task; then it has failed."""

REDIS_RETRY_S = 1.0

INTERNAL = Answer({}, "internal_error", "Penstock itself failed; the coordinator's log has the traceback")


class Tasks:
    """The tasks that this coordinator has."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lease_s = context.settings.batch_lease_s
        self.running: set[asyncio.Task[None]] = set()
        self.closed = False

    async def look(self) -> None:
        """Take what waits, up to :data:`AT_ONCE` tasks; nothing more once it is ``closed``."""
        while len(self.running) < AT_ONCE and not self.closed:
            task = await self._context.tasks.take(self._lease_s, self._context.token)
            if task is None:
                return
            running = asyncio.create_task(self._perform(task), name=f"{task.kind} {task.batch}")
            self.running.add(running)
            running.add_done_callback(self.running.discard)

    async def _perform(self, task: Task) -> None:
        """Perform a task while its lease is kept; give it back where this coordinator ends before that."""
        store = self._context.tasks
        try:
            kept = await under_lease(
                self._answer(task), lambda: store.keep(task, self._lease_s), self._lease_s, task.batch
            )
            if not kept:
                log.warning("batch_task_lost", batch=task.batch, kind=task.kind.value)
        except asyncio.CancelledError:
            with suppress(StoreError):
                await store.keep(task, 0)
            raise
        except Exception:  # when the lease has run out it is tried again
            log.exception("batch_task_failed", batch=task.batch, kind=task.kind.value)

    async def _answer(self, task: Task) -> None:
        while True:
            try:
                answer = await self._outcome(task)
                failpoints.hit("coordinator.before_answer")
                await self._context.tasks.end(task, answer)
            except StoreUnavailableError as error:
                log.debug("batch_task_waits_for_redis", batch=task.batch, error=str(error))
                await asyncio.sleep(REDIS_RETRY_S)
            else:
                return

    async def _outcome(self, task: Task) -> Answer:
        """Perform a task. An error becomes a code and a message: the api raises them again."""
        if task.deaths >= MOST_DEATHS:
            log.error("batch_task_given_up", batch=task.batch, kind=task.kind.value, deaths=task.deaths)
            return INTERNAL
        try:
            return await self._do(task)
        except StoreUnavailableError:
            raise
        except (FileGoneError, NoInputFileError) as error:
            return Answer({}, "file_gone", str(error))
        except OverQuotaError as error:
            return Answer({}, "insufficient_quota", str(error.most))
        except StorageError as error:
            return Answer({}, error.reason, str(error))
        except Exception:
            log.exception("batch_task_failed", batch=task.batch, kind=task.kind.value)
            return INTERNAL

    async def _do(self, task: Task) -> Answer:
        batch = await self._context.batches.get(task.batch)
        if batch is None:
            return Answer({}, "batch_not_found", f"there is no batch {task.batch!r}")
        if task.kind is TaskKind.VERIFY:
            return Answer(await verify(self._context, batch))
        return Answer(await retry(self._context, batch, task.args))
