"""A real Prometheus that scrapes a live stack: two api processes, a worker, mixed load. Every expression of every dashboard
and rule is run against it.

What cannot be had from a simulated engine on a machine without a GPU: vLLM's own series (``tests/e2e/test_vllm_metrics.py``
has them), and GPUs, whose series come from the real collector over a driver's library that speaks for two GPUs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIServer

import httpx
import openai
import pytest
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from broker.declared import DeclaredPools
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.declared import DeclaredPool
from jobs.lanes import Lane
from jobs.model import JobSpec
from monitoring.metrics import Gpus
from tests.apiserver import ApiServer
from tests.batching import create, row
from tests.coordinators import CoordinatorThread
from tests.gpus import TwoGpus
from tests.helm import rendered
from tests.integration.test_worker import ready, start_worker
from tests.prometheus import RULES, PrometheusServer, alerts, recorded, selector_texts
from tests.support import eventually, new_id, wait_until
from tools.dashboards.boards import BOARDS

__all__ = ["ready", "start_worker"]  # fixtures

MODEL = "simulated"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "How do you do?"}]}
PATIENCE_S = 90.0
WINDOW = "20s"
"""What ``$__rate_interval`` is here: a few scrapes."""

NOT_HERE = ("vllm:", "penstock_engine_preemptions")
"""What only vLLM says."""

SPECULATION = "penstock_spec_"
"""How the names of what only an engine with speculative decoding says begin."""


def resolved(expression: str) -> str:
    choices = {"$__rate_interval": WINDOW, "$pool": ".*", "$worker": ".*", "$instance": ".*"}
    for name, chosen in choices.items():
        expression = expression.replace(name, chosen)
    return expression


PANELS = {
    f"{board.uid}: {row.title}: {panel.title}: {number}": resolved(query.expr)
    for board in BOARDS
    for row in board.rows
    for panel in row.panels
    for number, query in enumerate(panel.queries)
}


@contextmanager
def exporters() -> Iterator[tuple[str, str]]:
    """What a machine with two GPUs would add: a worker's GPU series, and two of DCGM's. Yields their addresses."""
    gpus, dcgm = CollectorRegistry(), CollectorRegistry()
    Gpus(gpus, nvml=TwoGpus())
    for name in ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM_FI_DEV_XID_ERRORS"):
        Gauge(name, "As dcgm-exporter has it.", ["gpu", "Hostname"], registry=dcgm).labels("0", "node").set(0)
    servers: list[tuple[WSGIServer, Thread]] = [
        start_http_server(0, "127.0.0.1", registry) for registry in (gpus, dcgm)
    ]
    try:
        yield tuple(f"127.0.0.1:{server.server_port}" for server, _ in servers)  # type: ignore[misc]
    finally:
        for server, thread in servers:
            server.shutdown()
            server.server_close()
            thread.join(10)


class Load:
    """Everything that a stack meets in a day, over and over, until it is told to stop."""

    def __init__(self, urls: list[str], store: JobStore) -> None:
        self._urls = urls
        self._store = store
        self.rounds = 0
        self.over = asyncio.Event()

    async def run(self) -> None:
        async with (
            httpx.AsyncClient(base_url=self._urls[0], timeout=30) as one,
            httpx.AsyncClient(base_url=self._urls[1], timeout=30) as two,
            openai.AsyncOpenAI(base_url=f"{self._urls[0]}/v1", api_key="none", max_retries=0) as sdk,
        ):
            while not self.over.is_set():
                await asyncio.gather(*(self._front(client) for client in (one, two)))
                await self._jobs(one)
                await create(sdk, [row(n) for n in range(5)])
                self.rounds += 1

    async def _front(self, client: httpx.AsyncClient) -> None:
        calls = [
            client.post("/v1/chat/completions", json=CHAT | {"stream": True, "max_tokens": 8})
            for _ in range(3)
        ]
        calls += [client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 4})]
        calls += [client.post("/v1/completions", json={"model": MODEL, "prompt": "x", "stream": True})]
        for answer in await asyncio.gather(*calls):
            assert answer.status_code == 200, answer.text
        refused = await client.post("/v1/chat/completions", json=CHAT | {"messages": 7})
        assert refused.status_code == 400

    async def _jobs(self, client: httpx.AsyncClient) -> None:
        for lane in ("high", "normal", "low", "bulk"):
            wish = {"input": CHAT | {"max_tokens": 20}, "priority": lane, "expires_in_s": 60, "stream": True}
            assert (await client.post("/v1/jobs", json=wish)).status_code == 202
        bad = JobSpec(
            id=new_id(),
            endpoint="/v1/chat/completions",
            model=MODEL,
            body=b'{"max_tokens": "x"}',
            lane=Lane.LOW,
        )
        await self._store.accept(bad)  # past the api, which would have refused it: a failed job
        late = {"input": CHAT | {"max_tokens": 4000}, "expires_in_s": 0.2}
        assert (await client.post("/v1/jobs", json=late)).status_code == 202
        long = (
            await client.post("/v1/jobs", json={"input": CHAT | {"max_tokens": 4000}, "stream": True})
        ).json()
        assert (await client.post(f"/v1/jobs/{long['id']}/cancel")).status_code in {200, 202}


@pytest.mark.asyncio
async def test_every_expression_has_data_from_a_live_stack(
    broker_settings: BrokerSettings, store: JobStore, ready, tmp_path: Path
) -> None:
    files = str(tmp_path / "files")
    await ready(files_url=files, simulated_inter_token_s=0.01, simulated_capacity=16)
    await DeclaredPools(store).put(DeclaredPool(pool="chat", model="asleep", slots=4))
    for _ in range(5):
        await store.accept(
            JobSpec(id=new_id(), endpoint="/v1/completions", model="asleep", body=b"{}", pool="chat")
        )
    with (
        CoordinatorThread(broker_settings, files_url=files),
        ApiServer(broker_settings, files_url=files) as first,
        ApiServer(broker_settings, files_url=files) as second,
        exporters() as (gpus, dcgm),
    ):
        load = Load([first.url, second.url], store)
        working = asyncio.create_task(load.run())
        scrape = [
            {
                "job_name": "penstock-api",
                "static_configs": [{"targets": [api.url.removeprefix("http://") for api in (first, second)]}],
            },
            {
                "job_name": "penstock-worker",
                "http_sd_configs": [{"url": f"{second.url}/v1/metrics/targets", "refresh_interval": "1s"}],
            },
            {
                "job_name": "gpus",
                "static_configs": [
                    {"targets": [gpus], "labels": {"pool": "default", "worker": "gpu", "host": "node"}}
                ],
            },
            {"job_name": "dcgm", "static_configs": [{"targets": [dcgm]}]},
        ]
        folder = tmp_path / "prometheus"
        folder.mkdir()
        server = PrometheusServer(folder, scrape, [RULES / "recording.yml", RULES / "alerts.yml"])
        await asyncio.to_thread(server.__enter__)
        try:
            await eventually(lambda: load.rounds >= 3 or working.done(), 120)
            await asyncio.to_thread(check_everything, server)
            assert not working.done(), working.exception()
        finally:
            load.over.set()
            await asyncio.gather(working, return_exceptions=True)
            await asyncio.to_thread(server.__exit__, None, None, None)


def check_everything(server: PrometheusServer) -> None:
    """Run every expression. All are given a while for their series to fill, also where a scrape came too late."""
    elsewhere = (*NOT_HERE, SPECULATION)
    missing = {name: text for name, text in PANELS.items() if not any(one in text for one in elsewhere)}
    missing |= {name: name for name in recorded()}
    for rule in alerts():
        server.query(
            rule["expr"]
        )  # that it holds is for promtool's cases; that it can be asked, and of what, for here
        missing |= {
            f"{rule['alert']}: {selector}": f"count({drop_matchers(selector)})"
            for selector in selector_texts(rule["expr"])
            if not any(one in selector for one in NOT_HERE)
        }
    deadline = time.monotonic() + PATIENCE_S
    while missing and time.monotonic() < deadline:
        missing = {name: text for name, text in missing.items() if not answered(server, text)}
        time.sleep(0.5)
    assert not missing
    wait_until(
        lambda: all(
            rule["health"] == "ok" for group in server.get("rules")["groups"] for rule in group["rules"]
        )
    )
    check_two_api_processes(server)
    check_triggers(server)


def check_triggers(server: PrometheusServer) -> None:
    """KEDA gets one number of each query of the chart: of a pool that works, and of one that has no worker."""

    def asked(pool: str) -> dict[str, float]:
        options = (
            "--set",
            f"pools.{pool}.autoscaling.slots=4",
            "--set",
            f"pools.{pool}.autoscaling.enabled=true",
        )
        objects = rendered(
            "--set", "redis.url=redis://r", *options, "--set", f"pools.{pool}.autoscaling.maxWaitSeconds=60"
        )
        (scaled,) = (one["spec"] for one in objects if one["kind"] == "ScaledObject")
        queries = {one["name"]: one["metadata"]["query"] for one in scaled["triggers"]}
        return {name: number(server, query) for name, query in queries.items()}

    asleep = asked("chat")
    assert (asleep["backlog"], asleep["deadline"]) == (5, 0)
    assert asleep["oldest"] > 0
    assert asked("default").keys() == asleep.keys()


def number(server: PrometheusServer, expression: str) -> float:
    """Return the one number of an expression. It has none for a moment if a scrape came too late."""

    def found() -> list[float]:
        return [float(sample["value"][1]) for sample in server.query(expression)]

    (only,) = wait_until(found)
    return only


def answered(server: PrometheusServer, expression: str) -> bool:
    """Whether an expression has a number. Raises AssertionError where Prometheus refuses it."""
    samples = server.query(expression)
    return any(sample["value"][1] != "NaN" for sample in samples)  # NaN: a quantile or a ratio of nothing


def drop_matchers(selector: str) -> str:
    """A selector by name and job alone: of the series it picks, some are there only when it fires."""
    return selector if selector.startswith("up{") else selector.partition("{")[0]


def tells(server: PrometheusServer, expression: str, wanted: float) -> bool:
    return number(server, expression) == wanted


def check_two_api_processes(server: PrometheusServer) -> None:
    """What both see is told once; what each did is told of each."""

    expected = {
        'count(up{job=~"penstock-.*"} == 1)': 4,
        'count(up{job="penstock-coordinator"})': 1,
        'sum(penstock:workers:max{state="ready"})': 1,
        'sum(penstock_workers{state="ready"})': 2,
        'count(sum by (instance) (api_requests_total{endpoint="/v1/chat/completions",status="200"}) > 0)': 2,
        'count(penstock:data_disk_free:ratio{folder="files"})': 3,
    }
    for query, wanted in expected.items():  # a scrape may come too late on a busy machine
        wait_until(partial(tells, server, query, wanted))
    (worker,) = wait_until(lambda: server.query("penstock_capacity_jobs"))
    assert worker["metric"]["pool"] == "default"
    assert worker["metric"]["worker"].startswith("w1@")
    assert worker["metric"]["engine"] == "simulated"
    cpu = wait_until(lambda: server.query(PANELS["penstock-engine: Engine: CPU of the workers: 0"]))
    assert [sample["metric"]["worker"] for sample in cpu] == [worker["metric"]["worker"]]  # not the api's
    names = server.get("label/__name__/values")
    assert {"penstock_queue_wait_seconds_bucket", "penstock_redis_memory_used_bytes"} <= set(names)
    ids = [
        value
        for label in server.get("labels")
        for value in server.get(f"label/{label}/values")
        if "job_0" in value
    ]
    assert not ids
