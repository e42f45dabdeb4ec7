"""`penstock worker check`, the health check of a worker's container: the lease decides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from redis import Redis

from broker.db.keys import Keys
from broker.settings import BrokerSettings
from penstock.server.valkey import EmbeddedServer
from tests.processes import ROOT, WorkerProcess
from tests.support import freeze, wait_until


def check(settings: BrokerSettings, url: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
    given = {"PENSTOCK_REDIS_URL": url or settings.redis_url, "PENSTOCK_NAMESPACE": settings.namespace}
    command = [sys.executable, "-m", "penstock", "worker", "check"]
    return subprocess.run(command, cwd=ROOT, env=env | given, capture_output=True, text=True, check=False)


def test_it_follows_the_lease(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    before = check(broker_settings)
    assert before.returncode == 1
    assert "has a lease" in before.stderr
    worker = WorkerProcess(broker_settings, tmp_path / "worker.log", lease_ttl_s=60.0)
    try:
        wait_until(worker.is_ready)
        assert check(broker_settings).returncode == 0
        freeze(worker.process.pid)  # its process lives, and its loop stands still
        with Redis.from_url(broker_settings.redis_url) as redis:  # for longer than its lease
            leases = Keys(broker_settings.namespace)("leases")
            assert redis.zadd(leases, dict.fromkeys(redis.zrange(leases, 0, -1), 1), xx=True, ch=True)
        assert check(broker_settings).returncode == 1
        worker.signal(signal.SIGKILL)
    finally:
        worker.close()


def test_without_redis_it_says_so(broker_settings: BrokerSettings) -> None:
    done = check(broker_settings, "redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert "cannot ask Redis" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_user_who_may_not_ask_is_said(valkey: EmbeddedServer, broker_settings: BrokerSettings) -> None:
    scheme, _, rest = broker_settings.redis_url.partition("://")
    with Redis.from_url(valkey.url) as client:
        client.acl_setuser(
            "nobody", enabled=True, passwords=["+pw"], keys=["elsewhere:*"], categories=["+@all"]
        )
        done = check(broker_settings, f"{scheme}://nobody:pw@{rest.rpartition('@')[2]}")
        client.acl_deluser("nobody")
    assert done.returncode == 1
    assert "cannot ask Redis for the lease" in done.stderr
    assert "Traceback" not in done.stderr
