"""``penstock worker run``: one worker in this process, or several as children of it, one for each group of devices."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import click

from broker.db.errors import StoreError
from penstock.server.errors import WorkersStartError
from penstock.server.fleet import Part, parts_of_worker
from penstock.server.leases import end_lease, until_alive
from penstock.server.logs import LogLimits, follow
from penstock.server.plan import worker_child
from penstock.server.signals import on_signals
from penstock.server.supervisor import ChildEndedError, StoppedError, Supervisor
from workers.main import run_worker


def run_workers(overrides: dict[str, Any]) -> None:
    """Run the workers of one pool until they are told to stop.

    Args:
        overrides: settings given on the command line; the rest comes from the environment and the files.

    Raises:
        pydantic.ValidationError: a bad setting.
        PoolsStartError: a bad table in ``penstock.toml``, or no or an unknown pool was named.
        DeviceStartError: the devices are not there, or too small for the model.
        WorkersStartError: one of several did not come up.
        SystemExit: the one worker ended; see :func:`workers.main.run_worker`.
    """
    parts = parts_of_worker(overrides)
    if len(parts) == 1:
        run_worker(overrides)
    else:
        asyncio.run(_supervise(parts))


async def _supervise(parts: Sequence[Part]) -> None:
    settings = parts[0].settings
    supervisor = Supervisor(click.echo, LogLimits(settings.log_max_bytes, settings.log_backups))
    on_signals(supervisor.request_stop)

    async def ended(pid: int) -> None:
        await end_lease(settings.redis_url, settings, pid)

    async def serving(_: str, pid: int) -> None:
        await until_alive(settings.redis_url, settings, lambda: {pid}, lambda _: None)

    try:
        async with AsyncExitStack() as stack:
            for part in parts:
                child = worker_child(part, settings.data_dir.absolute() / "logs", on_end=ended)
                name = f"{part.name} ({part.place})"
                task = asyncio.create_task(follow(child.log_path, name, click.echo))
                stack.callback(task.cancel)
                await supervisor.start(child)
            names = [part.name for part in parts]
            await supervisor.during_start(
                until_alive(
                    settings.redis_url, settings, lambda: supervisor.awaited(names), supervisor.mark_ready
                )
            )
            click.echo(f"{len(parts)} workers are ready on {platform.node()}")
            await supervisor.supervise(serving)
    except (ChildEndedError, StoreError) as error:
        raise WorkersStartError(str(error)) from error
    except StoppedError:
        pass  # asked for: no failure
    finally:
        await supervisor.stop()
