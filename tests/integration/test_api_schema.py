"""Whatever a client sends, each operation of the OpenAPI document answers as the document says, and never 500."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import status_code_conformance

from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.batching import jsonl, row
from tests.coordinators import CoordinatorThread
from tests.puppet import Puppet
from tests.security import routes

MODEL = "tiny-random"
"""The model of the document's examples."""

UNAVAILABLE = {"queue_timeout", "no_worker"}
"""Codes of a 503 that are right here: no worker takes the calls."""


@pytest.fixture(scope="module")
def api(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    base = BrokerSettings(redis_url=valkey.url, namespace="schema")
    given: dict[str, Any] = {"files_url": str(tmp_path_factory.mktemp("files")), "queue_max": 100_000}
    with (
        CoordinatorThread(base, **given),
        ApiServer(base, **given, queue_timeout_s=0.05, max_wait_s=0.1) as server,
    ):
        yield server
    with Redis.from_url(valkey.url) as client:
        for key in client.scan_iter("schema*"):
            client.delete(key)


@pytest.fixture(scope="module")
def ids(api: ApiServer) -> dict[str, str]:
    """An object of each kind that is there."""
    asyncio.run(_live(api.settings))
    with httpx.Client(base_url=api.url) as http:
        file = http.post(
            "/v1/files", files={"file": ("x", jsonl([row(1, model=MODEL)]))}, data={"purpose": "batch"}
        ).json()["id"]
        asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = http.post("/v1/batches", json=asked).json()["id"]
        call = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
        job = http.post("/v1/jobs", json={"input": call}).json()["id"]
        for path in (f"/v1/jobs/{job}", f"/v1/batches/{batch}"):  # else their events would never end
            assert http.post(f"{path}/cancel").status_code == 200
    return {
        "file_id": file,
        "batch_id": batch,
        "job_id": job,
        "pool": "default",
        "lane": "low",
        "name": MODEL,
    }


async def _live(base: BrokerSettings) -> None:
    store = JobStore(connect(base.redis_url), base)
    await Puppet(store).live(MODEL)
    await store.aclose()


# Schemathesis draws from the module random, which Hypothesis does not like.
@pytest.mark.filterwarnings("ignore:Do not use the `random`:hypothesis.errors.HypothesisDeprecationWarning")
@pytest.mark.full
@pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)  # of Hypothesis, for Schemathesis
@pytest.mark.parametrize("label", [str(route) for route in routes.ALL])
def test_every_answer_is_documented(api: ApiServer, ids: dict[str, str], label: str) -> None:
    operation = routes.operations()[label]
    good_and_bad = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]

    @given(case=st.one_of(good_and_bad), real=st.booleans())
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def check(case: schemathesis.Case, real: bool) -> None:
        if real:
            case.path_parameters.update({k: v for k, v in ids.items() if k in case.path_parameters})
        response = case.call(base_url=api.url, timeout=30)
        checks = [status_code_conformance]
        refused = response.json().get("error", {}) if response.status_code == 503 else {}
        if refused.get("code") not in UNAVAILABLE and not label.startswith("GET /health"):
            checks.append(not_a_server_error)
        case.validate_response(response, checks=checks)

    check()
