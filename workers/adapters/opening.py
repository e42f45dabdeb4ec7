"""Starting a worker's adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.adapters import Adapters
from broker.jobs import JobStore
from monitoring.metrics import WorkerMetrics
from storage import Storage
from workers.adapters.pool import AdapterPool
from workers.engines.base import Engine, EngineStartError
from workers.settings import WorkerSettings


async def open_adapters(
    settings: WorkerSettings,
    engine: Engine,
    store: JobStore,
    metrics: WorkerMetrics,
    storage: Callable[[], Storage],
    worker: str,
) -> AdapterPool | None:
    """Return the adapters of a worker; None: it takes none.

    Args:
        engine: started.
        storage: opens the storage, at its first use.
        worker: the incarnation.

    Raises:
        EngineStartError: the disk has no place for their files.
    """
    if not settings.adapters_max:
        return None
    root = settings.data_dir.resolve() / "adapters"
    records, most = Adapters(store), settings.adapters_kept
    try:
        return await asyncio.to_thread(
            lambda: AdapterPool(
                engine, records, metrics, storage, root, worker=worker, pool=settings.pool, most=most
            )
        )
    except OSError as error:
        raise EngineStartError(f"cannot keep files of adapters in {root}: {error.strerror}") from error
