"""What a web page in somebody's browser may do: nothing, unless a setting names it. Programs notice none of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from broker.settings import BrokerSettings
from tests.apiserver import ApiServer
from tests.processes import ROOT
from tests.puppet import MODEL, Puppet
from tests.support import free_port

pytestmark = pytest.mark.asyncio

JOBS = "/v1/jobs"
BODY: dict[str, Any] = {"input": {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}}
EVIL = "https://evil.example"


@pytest.fixture
def listed(broker_settings: BrokerSettings) -> Iterator[ApiServer]:
    with ApiServer(
        broker_settings,
        allowed_hosts=["gpu.example.com"],
        allowed_origins=["https://chat.example/", "http://localhost:3000"],
    ) as server:
        yield server


@pytest.fixture
def keyed(broker_settings: BrokerSettings) -> Iterator[ApiServer]:
    with ApiServer(
        broker_settings, api_keys={"alice": "sk-alice"}, key_pepper="a pepper of the tests"
    ) as server:
        yield server


def refusal(got: httpx.Response) -> tuple[int, str]:
    return got.status_code, got.json()["error"]["code"]


async def test_a_foreign_page_changes_nothing(http: httpx.AsyncClient, puppet: Puppet) -> None:
    # What a page sends without asking anybody: a POST of text. With its own name in Host it has rebound that name to us.
    plain = {"content-type": "text/plain", "origin": EVIL}
    for path in (JOBS, "/v1/queues/default/pause", f"/v1/workers/{MODEL}/drain", "/v1/chat/completions"):
        for headers in (plain, plain | {"host": "evil.example"}, plain | {"origin": "null"}):
            got = await http.post(path, json=BODY, headers=headers)
            assert refusal(got)[0] == 403, (path, headers)
    assert refusal(await http.post(JOBS, json=BODY, headers={"origin": EVIL})) == (403, "origin_not_allowed")
    rebound = {"host": "evil.example:8080", "origin": "http://evil.example:8080"}
    got = await http.post(JOBS, json=BODY, headers=rebound)
    assert refusal(got) == (403, "host_not_allowed")
    assert "allowed_hosts" in got.json()["error"]["message"]
    assert refusal(await http.get("/v1/queues", headers={"host": "evil.example"})) == (
        403,
        "host_not_allowed",
    )
    assert await puppet.waiting() == 0
    (pool,) = (await http.get("/v1/queues")).json()["data"]
    assert pool["paused"] is False
    text = (await http.get("/metrics")).text
    assert 'api_errors_total{code="host_not_allowed"} 0.0' not in text
    assert 'api_requests_total{endpoint="unmatched",status="403"}' in text


async def test_programs_by_any_private_name_and_our_own_pages_pass(
    http: httpx.AsyncClient, api: ApiServer, puppet: Puppet
) -> None:
    port = api.settings.port
    for host in (
        f"127.0.0.1:{port}",
        f"localhost:{port}",
        "LOCALHOST",
        "10.0.0.7:8080",  # a probe of Kubernetes, a scrape of Prometheus
        "[::1]:8080",
        "[fd00::7]",
        "api:8080",  # a service of compose
        "penstock.default.svc.cluster.local",
        "penstock.default.svc",
        "gpu.corp.internal.",
        "nas.home.arpa",
        "penstock.localhost:8080",
    ):
        for path in ("/health/live", "/v1/queues", "/metrics"):
            got = await http.get(path, headers={"host": host})
            assert got.status_code == 200, (host, path)
            assert "access-control-allow-origin" not in got.headers
    own = {"origin": f"http://127.0.0.1:{port}"}  # "Try it out" of /docs
    assert (await http.post(JOBS, json=BODY, headers=own)).status_code == 202
    behind_tls = {"host": "localhost", "origin": "https://localhost"}
    assert (await http.post(JOBS, json=BODY, headers=behind_tls)).status_code == 202
    assert refusal(await http.post(JOBS, json=BODY, headers={"origin": "http://127.0.0.1:1"}))[0] == 403


async def test_names_and_pages_of_the_settings(listed: ApiServer, puppet: Puppet) -> None:
    async with listed.client() as http:
        for host in ("gpu.example.com", "GPU.example.com:443", "127.0.0.1"):
            assert (await http.get("/v1/queues", headers={"host": host})).status_code == 200
        for host in ("example.com", "svc.example.com", "evil.arpa", "xsvc.com"):
            assert refusal(await http.get("/v1/queues", headers={"host": host}))[0] == 403
        for origin in ("https://chat.example", "http://localhost:3000"):
            asked = {"origin": origin, "access-control-request-method": "POST"}
            asked["access-control-request-headers"] = "content-type, authorization"
            allowed = await http.options(JOBS, headers=asked)
            assert allowed.status_code == 200
            assert allowed.headers["access-control-allow-origin"] == origin
            assert "authorization" in allowed.headers["access-control-allow-headers"]
            got = await http.post(JOBS, json=BODY, headers={"origin": origin})
            assert (got.status_code, got.headers["access-control-allow-origin"]) == (202, origin)
        assert refusal(await http.post(JOBS, json=BODY, headers={"origin": EVIL}))[0] == 403


async def test_with_keys_any_name_serves(keyed: ApiServer, puppet: Puppet) -> None:
    key = {"authorization": "Bearer sk-alice"}
    async with keyed.client() as http:
        for headers in (
            {"host": "gpu.example.com"},
            {"origin": EVIL},
            {"host": "evil.example", "origin": EVIL},
        ):
            assert (await http.post(JOBS, json=BODY, headers=headers | key)).status_code == 202
            assert refusal(await http.post(JOBS, json=BODY, headers=headers)) == (401, "invalid_api_key")


async def test_a_second_host_header_is_refused(api: ApiServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.settings.port)
    writer.write(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_a_keyless_api_is_not_served_to_other_machines(tmp_path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    argv = [sys.executable, "-P", "-m", "penstock", "api", "--host", "0.0.0.0", "--port", str(free_port())]
    done = subprocess.run(
        argv, cwd=tmp_path, env=env | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("penstock api: on 0.0.0.0 other machines reach the api")
    assert "--without-keys" in done.stderr
    assert done.stdout == ""
