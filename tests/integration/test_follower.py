"""A remote node begins anew at once if the first node has gone, and after a pause if its own rank failed."""

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

MASTER = "first:29500"


@pytest.mark.parametrize(("rank", "at_once"), [("exit 1", False), ("exec sleep 60", True)])
async def test_a_rank_that_fails_is_started_again_after_a_pause(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, at_once: bool
) -> None:
    program = tmp_path / "rank"
    program.write_text(f"#!/bin/sh\n{rank}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    first = Puppet(store)
    await first.live(node_master=MASTER, incarnation=first.name)
    group = NodeGroup("default", MASTER, 2)
    follower = Follower(store, group, [], 1, beat_s=0.1, ttl_s=5.0)
    once = asyncio.create_task(follower._once())
    if at_once:
        key = store.keys("node", "default", f"{MASTER}:1")
        await eventually(lambda: store.client.exists(key))
        await store.client.delete(key)
        await eventually(lambda: store.client.exists(key))  # in between it has looked at the first node
        await store.bury(first.name)
    assert await once is at_once
