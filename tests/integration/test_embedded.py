"""The embedded Valkey: durable, private, alone on its folder, and gone with its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from penstock.server.valkey import EmbeddedServer, EmbeddedStartError
from tests.support import wait_until

OWNER = """
import sys, time
from pathlib import Path
from penstock.server.valkey import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
server.start()
print(server.pid, server.url, flush=True)
time.sleep(600)
"""


def running(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def client_of():
    clients = []

    def connect(server):
        clients.append(redis.Redis.from_url(server.url))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.mark.parametrize("tcp", [False, True])
def test_a_restart_keeps_the_data(tmp_path, client_of, tcp):
    with EmbeddedServer(tmp_path, tcp=tcp) as server:
        client_of(server).set("key", "value")
    with EmbeddedServer(tmp_path, tcp=tcp) as server:
        assert client_of(server).get("key") == b"value"


def test_a_killed_server_keeps_what_it_answered(tmp_path, client_of):
    server = EmbeddedServer(tmp_path)
    server.start()
    client_of(server).set("key", "value")
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.pid is None)
    server.stop()
    with server:
        assert client_of(server).get("key") == b"value"


def test_a_large_body_costs_no_new_memory_each_time(tmp_path, client_of):
    """Each took some ninety page faults in the kernel, several times what copying it takes."""
    body = b"x" * 230_000
    with EmbeddedServer(tmp_path) as server:
        client = client_of(server)
        put = client.register_script(
            "redis.call('HSET', KEYS[1], 'req', ARGV[1]) return redis.call('HGET', KEYS[1], 'req')"
        )

        def faults(bodies: int) -> int:
            before = _page_faults(server.pid)
            for number in range(bodies):
                put(keys=[f"job:{number % 8}"], args=[body])
                client.delete(f"job:{(number + 4) % 8}")
            return _page_faults(server.pid) - before

        faults(50)
        assert faults(100) < 100 * 5


def _page_faults(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def test_every_write_is_on_disk_and_nothing_is_evicted(tmp_path, client_of):
    with EmbeddedServer(tmp_path) as server:
        conf = client_of(server).config_get("append*", "maxmemory-policy", "save")
    assert conf["appendonly"] == "yes"
    assert conf["appendfsync"] == "always"
    assert conf["maxmemory-policy"] == "noeviction"
    assert conf["save"] == ""


def test_only_this_user_gets_in(tmp_path):
    with EmbeddedServer(tmp_path) as server:
        assert server.socket_path.parent.stat().st_mode & 0o777 == 0o700
    with EmbeddedServer(tmp_path, tcp=True) as server:
        port = int(server.url.rsplit(":", 1)[1].split("/")[0])
        with (
            redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as anyone,
            pytest.raises(redis.AuthenticationError),
        ):
            anyone.ping()


def test_a_path_too_long_for_a_socket_gets_a_short_one(tmp_path, client_of):
    deep = tmp_path / ("d" * 60) / ("e" * 60) / 'a "quoted" \\ name'
    with EmbeddedServer(deep) as server:
        assert len(str(server.socket_path)) < 100
        assert server.socket_path.parent.stat().st_mode & 0o777 == 0o700
        client_of(server).set("key", "value")
    assert list((deep / "valkey").glob("appendonlydir/*"))


def test_a_second_one_on_the_same_folder_is_refused(tmp_path, client_of):
    with EmbeddedServer(tmp_path) as first:
        with pytest.raises(
            EmbeddedStartError, match=rf"in use by another Penstock \(process {os.getpid()}\)"
        ):
            EmbeddedServer(tmp_path).start()
        assert client_of(first).ping()


def test_a_broken_file_is_one_clear_error_and_leaves_nothing(tmp_path):
    server = EmbeddedServer(tmp_path)
    with server:
        pass
    manifest = next((tmp_path / "valkey" / "appendonlydir").glob("*.manifest"))
    manifest.write_text("nonsense\n")
    with pytest.raises(EmbeddedStartError, match=r"ended with status 1(.|\n)*manifest(.|\n)*valkey\.log"):
        server.start()
    assert server.pid is None
    assert server.lock_fd == -1


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part of it is Linux's")
def test_a_killed_owner_leaves_no_server_and_the_folder_free(tmp_path, client_of):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        pid = int(owner.stdout.readline().split()[0])
        assert running(pid)
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not running(pid))
    with EmbeddedServer(tmp_path) as server:
        assert client_of(server).ping()
