"""An engine on two nodes, here on one machine: vLLM's own start over several nodes, on the CPU, with tensor parallelism."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from tests.environment import clean
from tests.forked import ForkedProcess
from tests.processes import ROOT, ApiProcess, descendants
from tests.support import eventually, free_port, wait_until

pytestmark = [pytest.mark.full, pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]

START_S = 180.0
CHAT = {
    "model": "tiny-random",
    "messages": [{"role": "user", "content": "Say words"}],
    "max_tokens": 24,
    "temperature": 0,
    "extra_body": {"ignore_eos": True},
}


class Nodes:
    """The settings, and the processes, of both nodes."""

    def __init__(self, settings: BrokerSettings, folder: Path) -> None:
        self._folder = folder
        self._given = {
            "redis_url": settings.redis_url,
            "namespace": settings.namespace,
            "data_dir": folder,
            "model": "tiny-random",
            "tensor_parallel": 2,
            "nodes": 2,
            "node_master": f"127.0.0.1:{free_port()}",
            "lease_ttl_s": 6.0,
            "heartbeat_s": 0.5,
        }
        self.started: list[ForkedProcess] = []

    def start(self, function: str, name: str, core: int, **kwargs: object) -> ForkedProcess:
        env = clean() | {"VLLM_CPU_OMP_THREADS_BIND": str(core), "OMP_NUM_THREADS": "1"}
        log = self._folder / f"{name}.log"
        process = ForkedProcess(function, {"overrides": self._given, **kwargs}, log, ROOT, env)
        self.started.append(process)
        return process

    def worker(self, name: str = "worker") -> ForkedProcess:
        return self.start("workers.main:run_worker", name, 0)

    def follower(self) -> ForkedProcess:
        return self.start("workers.nodes.main:run_node", "follower", 1, rank=1)

    def said(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def close(self) -> None:
        for process in self.started:
            for one in [*descendants(process.pid)] if process.poll() is None else []:
                one.kill()
            if process.poll() is None:
                process.kill()
                process.wait(10)


@pytest_asyncio.fixture(loop_scope="session")
async def nodes(broker_settings: BrokerSettings, tmp_path: Path) -> AsyncIterator[Nodes]:
    with ExitStack() as stack:
        both = Nodes(broker_settings, tmp_path)
        stack.callback(both.close)
        yield both


async def test_calls_run_over_both_nodes_and_a_lost_node_is_the_engines_death(
    nodes: Nodes, broker_settings: BrokerSettings, store: JobStore, tmp_path: Path
) -> None:
    follower, worker = nodes.follower(), nodes.worker()
    wait_until(lambda: "worker_ready" in nodes.said("worker") or worker.poll() is not None, START_S)
    assert "worker_ready" in nodes.said("worker")
    (said,) = await store.workers()
    assert (said["nodes"], said["devices"]) == (2, 2)
    api = ApiProcess(broker_settings, tmp_path / "api.log", free_port())
    try:
        await api.ready()
        async with api.client() as client:
            answer = await client.chat.completions.create(**CHAT)  # type: ignore[call-overload]
            assert answer.usage.completion_tokens == 24

            (rank,) = (one for one in descendants(follower.pid) if "headless" in " ".join(one.cmdline()))
            workers = [psutil.Process(rank.pid), *descendants(rank.pid)]
            rank.kill()
            assert worker.wait(30) == 1  # within a few beats; its supervisor starts it again
            assert "the node of rank 1" in nodes.said("worker")

            # The follower has begun anew by itself, and takes what is left of the old one with it.
            again = nodes.worker("again")
            wait_until(lambda: "worker_ready" in nodes.said("again") or again.poll() is not None, START_S)
            assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in workers)
            await eventually(lambda: _one(store))
            same = await client.chat.completions.create(**CHAT)  # type: ignore[call-overload]
            assert same.choices[0].message.content == answer.choices[0].message.content
    finally:
        api.close()
    again.send_signal(signal.SIGTERM)
    assert again.wait(40) == 0
    wait_until(lambda: nodes.said("follower").count("node_started") >= 3, 30)  # ready for the next start
    follower.send_signal(signal.SIGTERM)
    assert follower.wait(30) == 0
    assert await store.client.keys(store.keys("node", "default", "*")) == []


async def _one(store: JobStore) -> bool:
    return len(await store.workers()) == 1
