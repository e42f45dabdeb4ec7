"""``penstock worker check``: whether a worker of this machine holds a lease. A container's health check runs it."""

from __future__ import annotations

import asyncio
import platform
from typing import Any

from broker.db.errors import StoreError
from broker.settings import BrokerSettings
from penstock.server.leases import live_workers


class NotAliveStartError(Exception):
    """No worker of this machine has a live lease, or Redis cannot say. The message says which."""


def check_worker(overrides: dict[str, Any]) -> None:
    """Return if a worker of this machine has a live lease, which means that it heartbeats and its jobs are its own.

    A worker that drains is alive. A container has a name of its own as a machine, so there it is that container's worker.

    Args:
        overrides: settings given on the command line; the rest comes from the environment and the files.

    Raises:
        pydantic.ValidationError: a bad setting.
        NotAliveStartError: none has, Redis did not answer within two seconds, or it refused the question.
    """
    settings = BrokerSettings(**overrides)
    try:
        alive = asyncio.run(live_workers(settings))
    except StoreError as error:
        raise NotAliveStartError(f"cannot ask Redis for the lease: {error}") from error
    if not alive:
        raise NotAliveStartError(f"no worker on {platform.node()} has a lease")
