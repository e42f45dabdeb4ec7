"""A worker's annotation of its own pod: a real worker, and an API server in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.helm import rendered, values
from tests.integration.test_worker import ready, start_worker
from tests.kubernetes import Cluster as Kubernetes
from tests.support import eventually
from workers.process.pod_cost import ANNOTATION, LEAVING, Cluster, PodCost, cost_of

__all__ = ["ready", "start_worker"]  # fixtures

pytestmark = pytest.mark.asyncio


@pytest.fixture
def kubernetes() -> Iterator[Kubernetes]:
    with Kubernetes() as server:
        yield server


@pytest.fixture
def cluster(kubernetes: Kubernetes, tmp_path: Path) -> Cluster:
    """The server, for an account that has the chart's role and no other right."""
    (role,) = (one for one in rendered(*values("mixed-fleet")) if one["kind"] == "Role")
    kubernetes.access.restrict("secret", role["rules"])
    (tmp_path / "token").write_text("secret\n")
    return Cluster(kubernetes.url, tmp_path / "token", None)


def told(kubernetes: Kubernetes) -> str | None:
    return kubernetes.named("Pod").get("w-0", {}).get("metadata", {}).get("annotations", {}).get(ANNOTATION)


@pytest.mark.parametrize(
    ("running", "capacity", "cost"),
    [(0, 256, 0), (1, 256, 10), (25, 256, 10), (26, 256, 20), (256, 256, 100), (300, 256, 100), (0, 0, 0)],
)
async def test_the_cost_is_the_share_of_slots_in_use(running: int, capacity: int, cost: int) -> None:
    assert cost_of(running, capacity) == cost


class Costs:
    """What ending the worker costs, and how often that was asked."""

    now, asked = 30, 0

    def __call__(self) -> int:
        self.asked += 1
        return self.now


@asynccontextmanager
async def telling(costs: Costs, cluster: Cluster) -> AsyncIterator[None]:
    task = asyncio.create_task(PodCost("llm/w-0", costs, cluster).run(0.02))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_each_change_is_told_and_a_failure_is_tried_again(
    kubernetes: Kubernetes, cluster: Cluster
) -> None:
    costs = Costs()
    labels, spec = {"app": "w"}, {"nodeName": "n"}
    pod: dict[str, Any] = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "w-0", "labels": labels},
        "spec": spec,
    }
    kubernetes.create(pod, namespace="llm")
    cluster.token.rename(cluster.token.with_suffix(".away"))
    async with telling(costs, cluster):
        await eventually(lambda: costs.asked > 2)
        assert told(kubernetes) is None
        cluster.token.with_suffix(".away").rename(cluster.token)
        await eventually(lambda: told(kubernetes) == "30")
        pod = kubernetes.named("Pod")["w-0"]
        assert (pod["spec"], pod["metadata"]["labels"]) == (spec, labels)
        version, asked = pod["metadata"]["resourceVersion"], costs.asked
        await eventually(lambda: costs.asked > asked + 2)
        assert kubernetes.named("Pod")["w-0"]["metadata"]["resourceVersion"] == version  # nothing changed
        costs.now = LEAVING
        await eventually(lambda: told(kubernetes) == "-1")


async def test_a_worker_goes_on_without_an_account(ready) -> None:
    worker = await ready(pod_deletion_cost="llm/w-0")
    await eventually(lambda: "pod_cost_not_told" in worker.log.read_text())
    assert worker.process.poll() is None
