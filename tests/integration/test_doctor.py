"""``penstock doctor``, ``chat`` and ``bench`` against the real thing: Redis with users, an api, a worker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from broker.checkup import look
from broker.db.acl import ADMIN, ROLES
from broker.db.errors import StoreUnavailableError
from broker.db.library import library
from broker.settings import BrokerSettings
from penstock.server.valkey import EmbeddedServer
from tests.aclserver import AclServer
from tests.apiserver import ApiServer
from tests.certificates import Authority
from tests.namespaces import new_namespace
from tests.processes import WorkerProcess
from tests.servers import every_server
from tests.support import wait_until
from tests.terminal import Terminal
from tests.unit.penstock.test_cli import ENV


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: the api in this one writes its log to stdout."""
    argv = [sys.executable, "-m", "penstock", *args]
    return subprocess.run(argv, env=ENV | env, capture_output=True, text=True, check=False, timeout=60)


@every_server
def test_it_asks_every_supported_server(broker_settings: BrokerSettings) -> None:
    facts = look(broker_settings.redis_url, broker_settings.namespace)
    assert facts.info is not None
    assert (facts.info["aof_enabled"], facts.info["maxmemory_policy"]) == (1, "noeviction")
    assert facts.config is not None
    assert facts.config["appendfsync"] == "always"
    assert (facts.user, facts.open_to_all, facts.lacking) == ("default", True, {})
    assert 0 < facts.round_trips_s[0] <= facts.round_trips_s[-1]
    assert abs(facts.clock_ahead_s) < 60
    assert not facts.newer_schema
    with Redis.from_url(broker_settings.redis_url) as client:
        client.function_load(library().source, replace=True)
    assert look(broker_settings.redis_url, broker_settings.namespace).has_library


def test_a_server_that_is_not_there(broker_settings: BrokerSettings) -> None:
    with pytest.raises(StoreUnavailableError, match="refused"):
        look("redis://127.0.0.1:1/0", broker_settings.namespace)


def test_rights_that_a_user_lacks(tmp_path: Path) -> None:
    with AclServer(tmp_path) as server:
        facts = look(server.url(ADMIN), "penstock")
        assert (facts.lacking, facts.dry_run, facts.open_to_all) == ({}, True, False)
        for user in ROLES.keys() - {"flower", "monitoring"}:
            facts = look(server.url(user), "penstock")
            assert (facts.user, facts.lacking, facts.dry_run) == (user, {}, False)
            assert set(look(server.url(user), "other").lacking) == {user}
        assert set(look(server.url(ADMIN), "other").lacking) == {"api", "worker", "coordinator", "flower"}
        with pytest.raises(StoreUnavailableError):
            look(server.url(ADMIN).replace("secret", "wrong"), "penstock")


@pytest.fixture(scope="module")
def serving(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An api and a simulated worker."""
    settings = new_namespace(valkey)
    log = tmp_path_factory.mktemp("doctor") / "worker.log"
    with ApiServer(settings) as api:
        worker = WorkerProcess(settings, log, simulated_inter_token_s=0.02, simulated_ttft_s=0.05)
        try:
            wait_until(worker.is_ready)
            wait_until(lambda: httpx.get(f"{api.url}/health/ready").status_code == 200)
            yield api
        finally:
            worker.close()


def test_a_running_server_is_looked_at(serving: ApiServer, tmp_path: Path) -> None:
    args = ("doctor", "--json", "--redis-url", serving.settings.redis_url, "--data-dir", str(tmp_path))
    port = serving.url.rpartition(":")[2]
    done = run(
        "--url", serving.url, *args, PENSTOCK_ENGINE="simulated", PENSTOCK_PORT=port, PENSTOCK_FLOWER_PORT="0"
    )
    assert done.returncode == 0, done.stdout
    findings = json.loads(done.stdout)["findings"]
    found = {one["name"]: one for one in findings if one["area"] == "server"}
    assert {"reachable", "health", "version", "clock", "workers", "queues"} <= found.keys()
    assert (found["workers"]["level"], found["workers"]["said"]) == ("ok", "1 ready")
    (held,) = (one for one in findings if (one["area"], one["name"]) == ("ports", "api"))
    assert (held["level"], "is held by Penstock" in held["said"]) == ("ok", True)
    redis = {one["name"]: one["level"] for one in findings if one["area"] == "redis"}
    assert (redis["reachable"], redis["persistence"], redis["functions"]) == ("ok", "ok", "ok")


@pytest.mark.full
def test_over_tls_they_trust_the_authority_that_is_named(valkey: EmbeddedServer, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.sign("localhost")
    with ApiServer(new_namespace(valkey), tls_cert_file=certificate, tls_key_file=key) as api:
        url = api.url
        env = {"PENSTOCK_CA_FILE": str(authority.file), "PENSTOCK_ENGINE": "simulated"}
        done = run("--url", url, "doctor", "--json", **env)
        found = {one["name"]: one for one in json.loads(done.stdout)["findings"] if one["area"] == "server"}
        assert (found["certificate"]["said"], found["certificate"]["level"]) == ("valid for 1 days", "warn")
        assert "version" in found
        asked = run("bench", url, "--model", "none", **env)
        assert (asked.returncode, "503 no_worker" in asked.stderr) == (4, True), asked.stderr
        refused = run("bench", url, "--model", "none")
        assert (refused.returncode, "CERTIFICATE_VERIFY_FAILED" in refused.stderr) == (3, True)


def test_a_server_that_is_away_fails() -> None:
    done = run("--url", "http://127.0.0.1:1", "doctor", "--text", "--quiet", PENSTOCK_ENGINE="simulated")
    assert done.returncode == 1
    assert "fail    reachable: cannot reach http://127.0.0.1:1" in done.stdout


def test_ctrl_c_in_a_chat_cancels_its_job(serving: ApiServer, tmp_path: Path) -> None:
    def running() -> int:
        said = json.loads(
            run("--url", serving.url, "jobs", "list", "--state", "running", "--json").stdout or "0"
        )
        return bool(said)

    args = ("--url", serving.url, "chat", "--max-tokens", "3000")
    with Terminal(*args, env={"XDG_STATE_HOME": str(tmp_path)}) as screen:
        screen.expect("> ")
        screen.line("tell me everything")
        screen.expect(" t")
        screen.interrupt()
        screen.expect("[stopped")
        wait_until(lambda: not running())
        screen.line("/stats")
        screen.expect("first token after")
        screen.line("/exit")
        assert screen.end() == 0


def test_bench_finds_the_times_of_the_engine(serving: ApiServer) -> None:
    load = (
        "--requests",
        "16",
        "--concurrency",
        "4",
        "--prompt-tokens",
        "64",
        "--max-tokens",
        "10",
        "--ignore-eos",
    )
    done = run("bench", serving.url, *load)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["requests"]["succeeded"] == 16
    assert found["tokens_counted_by"] == "server"
    rates = found["rates"]
    assert rates["prompt_tokens_per_s"] / rates["requests_per_s"] == pytest.approx(64, rel=0.2)
    assert found["ttft_ms"]["min"] >= 50
    # A piece that comes late makes the time after it short: what holds is the time to the last one.
    assert found["end_to_end_ms"]["min"] >= (50 + 9 * 20) * 0.99
    assert found["inter_token_ms"]["mean"] > 10
