"""Pools that scale from zero, as data in Redis: each method is one atomic change or one look-up."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable

import msgspec

from broker.db.calls.declared import Declarations, Declared, PoolDeclare, PoolsTakeOver, PoolUndeclare
from broker.jobs import StorePart
from broker.sources import settings_file
from jobs.access import Actor, encoded
from jobs.declared import DeclaredPool, DeclaredPoolStartError, from_tables


def declared_in_settings() -> tuple[DeclaredPool, ...] | None:
    """Return the pools that scale from zero by their tables in the settings file; None: there is no such file.

    Raises:
        DeclaredPoolStartError: the file is no TOML, or a table does not say what it serves.
    """
    file = settings_file()
    try:
        tables = tomllib.loads(file.read_bytes().decode()).get("pools", {})
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DeclaredPoolStartError(f"{file} cannot be read: {error}") from error
    try:
        return from_tables(tables) if isinstance(tables, dict) else ()
    except DeclaredPoolStartError as error:
        raise DeclaredPoolStartError(f"{file}: {error}") from error


class DeclaredPools(StorePart):
    """The pools that settings and operators have declared."""

    async def all(self) -> list[DeclaredPool]:
        """Return them by name."""
        return [one for _, one in sorted((await self._store.declared()).items())]

    async def put(self, pool: DeclaredPool, by: Actor | None = None, *, force: bool = False) -> Declared:
        """Declare a pool, or replace its record; nothing is written if one of its names means another model.

        Args:
            by: who asked, for the audit stream; None: a process of ours. The same below.
            force: change the model although jobs, or rows of batches, wait for the one before, which workers of another
                model fail; and take names that only pools without a worker and a declaration have.
        """
        return await self._call(PoolDeclare(pool.pool, _text(pool), force or None, encoded(by)))

    async def remove(self, pool: str, by: Actor | None = None) -> bool:
        """Forget a declaration, and return whether there was one.

        Calls for the pool's model are then refused while it has no worker. Jobs that wait stay, and run when one comes.
        """
        return await self._call(PoolUndeclare(pool, encoded(by)))

    async def take_over(self, pools: Iterable[DeclaredPool]) -> Declarations:
        """Declare the pools of the settings, and forget those that earlier settings declared.

        What an operator has declared stays as it is. Names of it, and those that live workers, LoRA adapters and operators'
        aliases have, are not taken.
        """
        return await self._call(PoolsTakeOver({one.pool: _text(one) for one in pools}))


def _text(pool: DeclaredPool) -> str:
    return msgspec.json.encode(pool).decode()
