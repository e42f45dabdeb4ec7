"""`penstock up --paced`."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.stacks import start_stack, stop_stack

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("vllm")]


def test_a_paced_stack_says_what_it_is(tmp_path: Path) -> None:
    stack = start_stack(tmp_path, "--paced=h100-8b", "--no-flower")
    try:
        (card,) = httpx.get(f"{stack.url}/v1/models").json()["data"]
        assert card["id"] == "paced-H100-8B"
        assert card["penstock"]["paced"]["base_ms"] == 6.0
        (worker,) = httpx.get(f"{stack.url}/v1/workers").json()["data"]
        assert (worker["device"], worker["capacity"]) == ("paced-H100-8B", 256)
        said = stack.output.read_text()
        assert "engine vllm, paced, model paced-H100-8B" in said
        assert "it computes nothing and makes up its tokens" in said
        assert "engine_paced" in (stack.data_dir / "logs" / "worker.log").read_text()
        body = {"model": card["id"], "prompt": [1000] * 1500, "max_tokens": 20}
        begun = time.monotonic()
        answer = httpx.post(f"{stack.url}/v1/completions", json=body, timeout=30).json()
        assert time.monotonic() - begun >= 1500 * 0.02 / 1000 + 20 * 6 / 1000
        assert answer["usage"]["completion_tokens"] == 20
    finally:
        stop_stack(stack)
