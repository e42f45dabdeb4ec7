"""The wire models of workers and queues. Times are Unix seconds, durations say their unit."""

from __future__ import annotations

from penstock.models import Wire


class Gpu(Wire):
    """A GPU of a worker, as its driver reports it; None is unknown.

    Attributes:
        utilization: 0 to 1, the share of the last moments in which it computed.
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
        id: this incarnation; a restarted worker has another.
        name: its node name, such as ``gpu0@host``. Names need not be unique.
        state: ``ready``, or ``draining``: it finishes its jobs, takes no new ones, and ends; of a model that shares its
            devices with others also ``asleep`` and ``waking``.
        device: the name of its engine's device, ``devices`` of them, with ``device_memory_bytes`` together; ``cpu``
            without a GPU, None if unknown.
        adapters: LoRA adapters that its engine has loaded.
        running: jobs it runs; ``chunks`` of them are chunks of batches, which have ``rows`` rows on its engine.
        capacity: jobs and rows that it may run at once.
        engine_running: requests that its engine computes now; ``engine_waiting`` more wait in the engine.
        kv_cache_usage: 0 to 1; None if the engine does not say.
        engine_priority: whether its engine runs calls before bulk that waits in it: ``works``, ``ignored``, ``refused`` or
            ``unknown``.
        shares_storage: whether it has the api's storage of files; None while it does not know.
        tokens_per_s: tokens generated between its last two heartbeats; None until the second. ``jobs_per_s``: jobs ended in
            that time.
        wait_ms: the average wait of the jobs that it started in that time; None if it started none.
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
    adapters: tuple[str, ...] = ()
    running: int = 0
    chunks: int | None = None
    rows: int | None = None
    capacity: int | None = None
    engine_running: int | None = None
    engine_waiting: int | None = None
    kv_cache_usage: float | None = None
    engine_priority: str | None = None
    shares_storage: bool | None = None
    tokens_per_s: float | None = None
    jobs_per_s: float | None = None
    wait_ms: float | None = None
    gpus: tuple[Gpu, ...] = ()
    started_at: float | None = None
    metrics_url: str | None = None

    @property
    def active(self) -> int:
        """The used part of its capacity: jobs, and rows of batches instead of their chunks."""
        return max(0, self.running - (self.chunks or 0)) + (self.rows or 0)


class Lane(Wire):
    """The jobs that wait in a lane of a pool.

    Attributes:
        queued: jobs that wait.
        oldest_s: how long the oldest of them has waited; None if none waits.
    """

    lane: str
    queued: int = 0
    oldest_s: float | None = None


class Tenant(Wire):
    """The jobs of a tenant in a pool: those that wait, and those that run (``active``)."""

    tenant: str
    queued: int = 0
    active: int = 0


class Pool(Wire):
    """A pool's queues.

    Attributes:
        running: jobs on its engines; its live workers have ``slots`` for them.
        max_active: the most jobs it may run; None if only the slots limit it.
        mean_run_s: the mean run time of the interactive lanes' jobs; ``mean_bulk_run_s`` is the same for the lane bulk.
            None: not measured yet.
        lanes: in the order in which they are served.
        tenants: those with jobs, the busiest first.
    """

    pool: str
    paused: bool = False
    running: int = 0
    slots: int = 0
    max_active: int | None = None
    queued: int = 0
    mean_run_s: float | None = None
    mean_bulk_run_s: float | None = None
    lanes: tuple[Lane, ...] = ()
    tenants: tuple[Tenant, ...] = ()


class DeclaredPool(Wire):
    """A pool that scales from zero: requests for its model are queued although no worker of it is alive.

    Attributes:
        id: the pool.
        slots: jobs that one worker runs at once; None: as the last one that registered.
        from_settings: the settings of the api declare it.
    """

    id: str
    model: str
    aliases: tuple[str, ...] = ()
    slots: int | None = None
    device: str | None = None
    device_memory_gb: float | None = None
    devices: int = 1
    from_settings: bool = False


class Autoscaling(Wire):
    """The work of a pool. Rows of batches count as jobs, and chunks do not.

    Attributes:
        value: jobs that wait or run: ``queued`` and ``running`` together.
        slots: jobs that its ``workers`` live workers run at once; ``slots_per_replica`` of them each, None: unknown.
        oldest_s: how long the oldest waiting job has waited; 0: none waits.
        deadline_in_s: until the first deadline of a waiting job, or of a batch with rows left; None: there is none.
        deadline_replicas: workers with which what waits starts in time.
        replicas_wanted: the larger of that and of what the backlog fills to the target.
    """

    pool: str
    value: int
    queued: int = 0
    running: int = 0
    slots: int = 0
    workers: int = 0
    slots_per_replica: int | None = None
    oldest_s: float = 0.0
    deadline_in_s: float | None = None
    deadline_replicas: int = 0
    replicas_wanted: int = 0


class Purged(Wire):
    """The outcome of a purge."""

    pool: str
    lane: str
    cancelled: int
