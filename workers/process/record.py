"""The worker's record as of now: each heartbeat sends it. Its constant part is made at registration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.jobs import JobStore
from jobs.worker_states import WorkerState
from workers.adapters.pool import AdapterPool
from workers.admission.gate import Gate
from workers.attempts.runner import Runner
from workers.engines.base import Engine
from workers.process.ending import Ending
from workers.process.gpus import GpuWatch
from workers.process.pod_cost import LEAVING, cost_of
from workers.process.reloads import Reloads
from workers.swapping.member import SwapMember


class Record:
    """Makes the record.

    Args:
        info: its constant part.
        engine: started.
        adapters: the engine's LoRA adapters; None: it takes none.
        member: its part in a swap group, ``swap_group``; None: it has none.
    """

    def __init__(
        self,
        info: Mapping[str, Any],
        engine: Engine,
        store: JobStore,
        *,
        gate: Gate,
        runner: Runner,
        ending: Ending,
        reloads: Reloads,
        gpus: GpuWatch,
        adapters: AdapterPool | None,
        member: SwapMember | None,
        swap_group: str | None,
    ) -> None:
        self._info, self._engine, self._store = info, engine, store
        self._gate, self._runner, self._ending = gate, runner, ending
        self._reloads, self._gpus, self._adapters = reloads, gpus, adapters
        self._member, self._swap_group = member, swap_group

    def now(self) -> dict[str, Any]:
        """Return the record."""
        stats, member = self._engine.stats(), self._member
        state = WorkerState.READY if member is None else member.state
        if self._reloads.busy and state is WorkerState.READY:
            state = WorkerState.WAKING
        return {
            **self._info,
            **self._reloads.said,
            "state": WorkerState.DRAINING if self._ending.begun else state,
            **({} if member is None else {"wake_ms": member.wake_ms, "swap_group": self._swap_group}),
            "running": self._runner.running,
            "chunks": self._gate.chunks(),
            "rows": self._gate.running_rows,
            "engine_running": stats.running,
            "engine_waiting": stats.waiting,
            "kv_cache_usage": stats.kv_cache_usage,
            "engine_priority": self._engine.priority().value,
            "gpus": self._gpus.facts,
            "shares_storage": self._store.large.shared,
            **(self._adapters.state() if self._adapters else {}),
            **self._runner.accounts.pulse.read(stats.generated),
        }

    def cost(self) -> int:
        """Return what the end of the worker's pod would cost; see :mod:`.pod_cost`."""
        if self._ending.begun:
            return LEAVING
        running = self._runner.running - self._gate.chunks() + self._gate.running_rows
        return cost_of(running, self._info["capacity"])
