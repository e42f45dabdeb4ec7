"""vLLM's own metrics come from the worker's endpoint, with the worker's labels; the dashboards' expressions find them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import openai
import pytest

from tests.e2e.stacks import Stack
from tests.integration.test_prometheus import NOT_HERE, PANELS, PATIENCE_S, answered
from tests.prometheus import PrometheusServer

OF_VLLM = {name: text for name, text in PANELS.items() if any(one in text for one in NOT_HERE)}

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


async def test_every_expression_of_vllm_has_data(vllm_stack: Stack, tmp_path: Path) -> None:
    scrape = {
        "job_name": "penstock-worker",
        "http_sd_configs": [{"url": f"{vllm_stack.url}/v1/metrics/targets", "refresh_interval": "1s"}],
    }
    assert len(OF_VLLM) > 8
    with PrometheusServer(tmp_path, [scrape]) as server:
        async with openai.AsyncOpenAI(base_url=f"{vllm_stack.url}/v1", api_key="none") as client:
            model = (await client.models.list()).data[0].id
            missing = dict(OF_VLLM)
            deadline = time.monotonic() + PATIENCE_S
            while missing and time.monotonic() < deadline:
                await client.completions.create(model=model, prompt="one two three " * 20, max_tokens=16)
                missing = {
                    name: text
                    for name, text in missing.items()
                    if not await asyncio.to_thread(answered, server, text)
                }
        assert not missing
        (running,) = server.query("vllm:num_requests_running")
        assert running["metric"]["pool"] == "default"
        assert running["metric"]["engine"] == "vllm"
        assert "@" in running["metric"]["worker"]
