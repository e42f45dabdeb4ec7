"""What runs the jobs, made from the settings once the engine has started: admission, the runner, and the rows of batches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from broker.batch_chunks import ChunkStore
from broker.jobs import JobStore
from jobs.retry import RetryPolicy
from monitoring.metrics import WorkerMetrics
from monitoring.tracing import Tracer
from storage import Storage
from workers.adapters.pool import AdapterPool
from workers.admission.gate import Gate
from workers.admission.pace import Pace
from workers.admission.policy import LaneController
from workers.attempts.quarantine import Quarantine
from workers.attempts.runner import Runner
from workers.batches.chunk import ChunkRunner
from workers.batches.plan import Planner
from workers.batches.row import RowRunner
from workers.engines.base import Engine
from workers.inputs import Inputs
from workers.settings import WorkerSettings


class Parts:
    """Makes the parts of one worker.

    Args:
        engine: started.
        storage: opens the storage of files.

    Attributes:
        capacity: jobs on the engine at once.
        lanes: how many of them bulk may have.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        engine: Engine,
        store: JobStore,
        storage: Callable[[], Storage],
        metrics: WorkerMetrics,
        tracer: Tracer,
    ) -> None:
        self._settings, self._engine, self._store = settings, engine, store
        self._storage, self._metrics, self._tracer = storage, metrics, tracer
        self.capacity = settings.concurrency or engine.capacity()
        self.lanes = LaneController(
            self.capacity,
            settings.bulk_reserve,
            # An engine with more slots would run what should wait in it.
            holds_bulk=engine.holds_bulk() and self.capacity >= engine.capacity(),
            on_adjust=lambda reason: metrics.bulk_limits.labels(reason).inc(),
        )

    def gate(self) -> Gate:
        """Make the admission to the engine."""
        lanes, metrics = self.lanes, self._metrics
        pace = Pace(lanes.ceiling + lanes.ahead, lanes.ahead)
        gate = Gate(self._engine, lanes, pace)
        metrics.capacity.set(self.capacity)
        metrics.bulk_limit.set_function(lambda: lanes.limit)
        metrics.bulk_pace.set_function(lambda: pace.rate)
        metrics.rows_running.set_function(lambda: gate.running_rows)
        return gate

    def runner(
        self,
        worker: str,
        gate: Gate,
        *,
        device_share: float,
        quarantine: Quarantine,
        adapters: AdapterPool | None,
        weights: Callable[[], object],
        die: Callable[[str], None],
    ) -> Runner:
        """Make what runs jobs, and chunks of batches.

        Args:
            worker: its incarnation.
            gate: admits rows.
            device_share: devices that a job has while it runs.
            adapters: the engine's LoRA adapters; None: it takes none.
            weights: says which weights the engine has; equal values, the same ones.
            die: begins the worker's end.
        """
        s = self._settings
        inputs = Inputs(
            self._store,
            self._storage,
            image_max_bytes=s.image_max_bytes,
            request_images_max_bytes=s.request_images_max_bytes,
            request_images_max=s.request_images_max,
        )
        adapter_for = adapters.held if adapters else lambda _: nullcontext()
        rows = RowRunner(
            self._engine,
            inputs,
            RetryPolicy(s.retry_base_s, s.retry_max_s),
            s.max_result_bytes,
            self._tracer,
            adapter_for=adapter_for,
            share_prefixes=s.shared_prefix_cache,
        )
        chunks = ChunkRunner(
            rows,
            self._storage,
            ChunkStore(self._store),
            self._metrics,
            gate,
            one_by_one=self.capacity,
            planner=Planner(s.batch_prefix_order, s.batch_answer_identical_once),
            device_share=device_share,
            weights=weights,
        )
        return Runner(
            self._engine,
            self._store,
            worker,
            pool=s.pool,
            quarantine=quarantine,
            metrics=self._metrics,
            tracer=self._tracer,
            max_result_bytes=s.max_result_bytes,
            device_share=device_share,
            inputs=inputs,
            adapter_for=adapter_for,
            share_prefixes=s.shared_prefix_cache,
            run_chunk=chunks.run,
            abort_chunk=chunks.abort,
            die=die,
        )
