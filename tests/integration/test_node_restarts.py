"""A remote node restarts at once only if the first node has gone; after a crash of its own it pauses."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from broker.jobs import JobStore
from broker.nodes import NodeGroup
from tests.puppet import Puppet
from tests.support import eventually
from workers.nodes.follower import Follower

pytestmark = pytest.mark.asyncio

MASTER = "big-0:29500"


def rank(store: JobStore, folder: Path, monkeypatch: pytest.MonkeyPatch, *, runs: str) -> Follower:
    """Return a node whose engine is a shell command."""
    program = folder / "engine"
    program.write_text(f"#!/bin/sh\n{runs}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    return Follower(store, NodeGroup("default", MASTER, 2), [], 1, beat_s=0.02, ttl_s=5.0)


async def first_node(store: JobStore) -> Puppet:
    first = Puppet(store, "first-1")
    await first.live(node_master=MASTER, incarnation=first.name)
    return first


async def test_a_crash_is_followed_by_a_pause_although_the_first_node_was_there(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await first_node(store)
    assert not await rank(store, tmp_path, monkeypatch, runs="sleep 0.3; exit 1")._once()


async def test_none_follows_the_end_of_the_first_node(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await first_node(store)
    running = asyncio.create_task(rank(store, tmp_path, monkeypatch, runs="exec sleep 60")._once())

    async def joined() -> bool:
        return None not in await NodeGroup("default", MASTER, 2).others(store)

    await eventually(joined)
    async with asyncio.timeout(10):
        while not running.done():  # it may not have seen the first node yet
            await first.live(node_master=MASTER, incarnation=first.name)
            await asyncio.wait({running}, timeout=0.1)
            await store.bury(first.name)
            await asyncio.wait({running}, timeout=0.1)
        assert await running
