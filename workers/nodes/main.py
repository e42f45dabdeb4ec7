"""``penstock worker follow``, from settings to exit."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import structlog

from broker.db.client import connect, ping
from broker.db.errors import StoreError
from broker.jobs import JobStore
from broker.nodes import NodeGroup
from monitoring.logging import configure_logging
from workers.devices.pools import worker_settings
from workers.devices.taking import take_devices
from workers.engines.factory import vllm_settings
from workers.nodes.follower import Follower
from workers.nodes.watch import group_of
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


class NodeStartError(Exception):
    """The node cannot start. The message is for the operator."""


def run_node(overrides: dict[str, Any], *, rank: int) -> None:
    """Run a remote node until SIGTERM or SIGINT.

    Args:
        overrides: settings given on the command line; the rest comes from the environment and the files, as a worker's.
        rank: of this node; the worker is 0.

    Raises:
        pydantic.ValidationError: a bad setting.
        PoolsStartError: a bad table in ``penstock.toml``.
        DeviceStartError: its devices are not available.
        NodeStartError: the settings name no such node, or Redis cannot be reached.
    """
    settings = worker_settings(overrides)
    group = group_of(settings)
    if group is None or not 1 <= rank < group.nodes:
        raise NodeStartError(
            f"there is no node of rank {rank}: the setting nodes is {settings.nodes or 1}; ranks go from 1 to nodes - 1, "
            "and the worker itself is rank 0"
        )
    configure_logging(settings.log_level, as_json=settings.log_json, service="node")
    settings, _ = take_devices(settings)
    try:
        ping(settings.redis_url)
    except StoreError as error:
        raise NodeStartError(str(error)) from error
    flags = (*vllm_settings(settings).argv(), "--headless", f"--node-rank={rank}")
    asyncio.run(_follow(settings, group, flags, rank))


async def _follow(settings: WorkerSettings, group: NodeGroup, flags: tuple[str, ...], rank: int) -> None:
    store = JobStore(connect(settings.redis_url), settings)
    follower = Follower(store, group, flags, rank, beat_s=settings.heartbeat_s, ttl_s=settings.lease_ttl_s)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, follower.stop)
    try:
        await follower.run()
    finally:
        await store.aclose()
