"""The adapters that a pool's settings declare: each source is taken over once, by whichever worker of the pool is first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from broker.adapters import Adapters
from broker.db.errors import StoreUnavailableError
from jobs.adapter_files import BadAdapterError, check_fit
from storage import Storage, StorageError
from storage.adapter_hub import HUB, HubAwayError, from_hub
from storage.adapters import AdapterFiles, check_files, keep
from workers.engines.base import ModelInfo

log = structlog.get_logger(__name__)

_AGAIN_S = 5.0

_REFUSED = {
    "full": "the pool has its most adapters (setting adapters_per_pool)",
    "model": "a model has this name",
    "alias": "it is an alias of a model",
    "other": "another pool has another adapter of this name",
}


async def take_over(
    declared: Mapping[str, str],
    pool: str,
    models: Sequence[ModelInfo],
    records: Adapters,
    storage: Callable[[], Storage],
    *,
    most: int,
    most_bytes: int,
) -> None:
    """Take over the adapters of the settings whose sources are new. A wrong one is logged, and hurts nobody.

    While Redis, the storage or the hub is away it tries again; the hub keeps none back but its own.

    Args:
        declared: a folder, or ``hf:org/name``, by name.
        models: the engine's.
        storage: opens the storage.
        most: adapters that the pool may have. ``most_bytes``: of one.
    """
    rank = next((model.capabilities.adapter_rank for model in models), None)

    async def take(name: str, source: str) -> bool:
        """Take over one of them. Returns whether nothing is left to do."""
        while True:
            try:
                if await records.taken_over(pool, name) == source:
                    return True
                files = await asyncio.to_thread(_files, source, most_bytes)
                facts = await asyncio.to_thread(check_files, files, most_bytes)
                check_fit(
                    facts, rank, ()
                )  # whose table it is in, the operator means its model, whatever the files call it
                answer = await records.declare(
                    name,
                    pool,
                    source,
                    facts,
                    lambda key, files=files: keep(files, storage(), key),  # type: ignore[misc]
                    most=most,
                    once=True,
                )
                _check(answer.kind)
            except HubAwayError as error:
                log.warning("adapter_not_taken_over", adapter=name, error=str(error))
                return False
            except (BadAdapterError, OSError) as error:
                log.warning("adapter_refused", adapter=name, source=source, why=str(error))
                return True
            except (StoreUnavailableError, StorageError) as error:
                log.warning("adapter_not_taken_over", adapter=name, error=str(error))
                await asyncio.sleep(_AGAIN_S)
            else:
                log.info("adapter_taken_over", adapter=name, source=source)
                return True

    left = dict(declared)
    while left:
        left = {name: source for name, source in left.items() if not await take(name, source)}
        if left:
            await asyncio.sleep(_AGAIN_S)


def _check(answer: str) -> None:
    if refused := _REFUSED.get(answer):
        raise BadAdapterError(refused)


def _files(source: str, most_bytes: int) -> AdapterFiles:
    if source.startswith(HUB):
        return from_hub(source, most_bytes)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise BadAdapterError(f"there is no folder {folder.absolute()} on this machine")
    return AdapterFiles.of(folder)
