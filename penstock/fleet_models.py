"""The wire models of workers and queues. Times are Unix seconds, durations say their unit."""

from __future__ import annotations

from penstock.models import Wire


class Gpu(Wire):
    """A GPU of a worker, as its driver describes it. None: it does not say.

    Attributes:
        utilization: 0 to 1, the part of the last moments in which it computed.
    """

    index: int
    uuid: str | None = None
    name: str | None = None
    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None


class Worker(Wire):
    """A worker as it was at its last heartbeat.

    Attributes:
        id: this incarnation; a worker that was started again has another.
        name: its node name, such as ``gpu0@host``. Names need not be unique.
        state: ``ready``, or ``draining``: it finishes what it runs, takes nothing new, and ends.
        device: the name of what its engine runs on, ``devices`` of them, with ``device_memory_bytes`` together; ``cpu``
            without a GPU, None where nobody knows.
        running: jobs it runs; ``chunks`` of them are chunks of batches, which have ``rows`` rows on its engine.
        capacity: jobs and rows that it may run at once.
        engine_running: requests that its engine computes now; ``engine_waiting`` ones wait inside of it.
        kv_cache_usage: 0 to 1; None where the engine does not say.
        tokens_per_s: what it generated between its last two heartbeats; ``jobs_per_s``: the jobs that ended.
        wait_ms: what the jobs that it began meanwhile had waited, on average; None where it began none.
    """

    id: str
    name: str
    state: str = "ready"
    host: str | None = None
    pid: int | None = None
    pool: str = "default"
    engine: str | None = None
    device: str | None = None
    devices: int | None = None
    device_memory_bytes: int | None = None
    models: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    running: int = 0
    chunks: int | None = None
    rows: int | None = None
    capacity: int | None = None
    engine_running: int | None = None
    engine_waiting: int | None = None
    kv_cache_usage: float | None = None
    tokens_per_s: float | None = None
    jobs_per_s: float | None = None
    wait_ms: float | None = None
    gpus: tuple[Gpu, ...] = ()
    started_at: float | None = None
    metrics_url: str | None = None

    @property
    def active(self) -> int:
        """What takes its capacity: jobs, and rows of batches in the place of their chunks."""
        return max(0, self.running - (self.chunks or 0)) + (self.rows or 0)


class Lane(Wire):
    """What waits in a lane of a pool.

    Attributes:
        queued: jobs that wait; ``dispatched`` of them lie ready for a worker.
        oldest_s: how long the oldest of them has waited; None where none waits.
    """

    lane: str
    queued: int = 0
    dispatched: int = 0
    oldest_s: float | None = None


class Tenant(Wire):
    """What a tenant has in a pool: jobs that wait, and jobs that run or are about to (``active``)."""

    tenant: str
    queued: int = 0
    active: int = 0


class Pool(Wire):
    """A pool's queues.

    Attributes:
        running: jobs on its engines, of the ``slots`` that its live workers have.
        max_active: the most jobs it may run; None for as many as there are slots.
        starts_per_s: jobs that were started a second while others waited, as last measured; ``bulk_starts_per_s``
            the same of the lane bulk. None: not measured yet.
        mean_run_s: how long a job runs, on average.
        lanes: in the order in which they are served.
        tenants: those with jobs, the busiest first.
    """

    pool: str
    paused: bool = False
    running: int = 0
    slots: int = 0
    max_active: int | None = None
    queued: int = 0
    starts_per_s: float | None = None
    bulk_starts_per_s: float | None = None
    mean_run_s: float | None = None
    lanes: tuple[Lane, ...] = ()
    tenants: tuple[Tenant, ...] = ()


class Purged(Wire):
    """What a purge did."""

    pool: str
    lane: str
    cancelled: int
