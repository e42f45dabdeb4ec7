"""`penstock up` with several models that share devices: calls and jobs for all of them are answered, and none is lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.engines import QUICK_ENV, QUICK_FLAGS
from tests.e2e.stacks import Stack, start_stack, stop_stack
from tests.support import wait_until

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("vllm"), pytest.mark.timeout(600)]

REAL = f"""
[pools.cpu]
models = ["tiny-random", "tiny-embed"]
engine_args = {list(QUICK_FLAGS)}
swap_min_stay_s = 1
swap_max_wait_s = 20
"""

PACED = "".join(
    f"""
[pools.{name}]
paced = "2,0.01,0.001"
served_model_name = "{name}"
swap_group = "one"
swap_min_stay_s = 0.5
swap_max_wait_s = 5
paced_wake_s = 0.5
"""
    for name in ("red", "blue")
)


def started(folder: Path, tables: str, **env: str) -> Stack:
    file = folder / "penstock.toml"
    file.write_text(tables)
    return start_stack(folder, "--no-flower", timeout_s=300, PENSTOCK_SETTINGS_FILE=str(file), **env)


def chat(model: str) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {
        "model": model,
        "messages": [{"role": "user", "content": "Say a word"}],
        "max_tokens": 16,
    }


def embed(model: str) -> tuple[str, dict[str, Any]]:
    return "/v1/embeddings", {"model": model, "input": "a word"}


def states(stack: Stack) -> list[str]:
    return sorted(one["state"] for one in httpx.get(f"{stack.url}/v1/workers").json()["data"])


def ask_both(stack: Stack, first: tuple[str, dict[str, Any]], second: tuple[str, dict[str, Any]]) -> None:
    """Submit jobs and make calls for both at once, two rounds, so that the model on the devices changes under them."""
    wait_until(lambda: states(stack) in (["asleep", "ready"], ["ready", "waking"]), 60)

    def call(way: tuple[str, dict[str, Any]]) -> int:
        return httpx.post(f"{stack.url}{way[0]}", json=way[1], timeout=240).status_code

    def submit(way: tuple[str, dict[str, Any]]) -> str:
        job = httpx.post(f"{stack.url}/v1/jobs", json={"endpoint": way[0], "input": way[1]}).json()
        return str(job["id"])

    for _ in range(2):
        jobs = [submit(way) for way in (first, second) for _ in range(4)]
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(call, [first, second] * 4)) == {200}
        for job in jobs:
            wait_until(_has_succeeded(stack, job), 240)
    assert sum(state == "ready" for state in states(stack)) <= 1


def _has_succeeded(stack: Stack, job: str) -> Callable[[], bool]:
    def look() -> bool:
        state = httpx.get(f"{stack.url}/v1/jobs/{job}").json()["state"]
        assert state in {"queued", "running", "succeeded"}
        return bool(state == "succeeded")

    return look


def test_two_real_models_share_the_cpu(tmp_path: Path) -> None:
    stack = started(tmp_path, REAL, **QUICK_ENV)
    try:
        listed = {card["id"] for card in httpx.get(f"{stack.url}/v1/models").json()["data"]}
        assert listed == {"tiny-random", "tiny-embed"}
        assert "in turns with the swap group cpu" in stack.output.read_text()
        ask_both(stack, chat("tiny-random"), embed("tiny-embed"))
    finally:
        stop_stack(stack)


def test_two_paced_models_share_a_device(tmp_path: Path) -> None:
    stack = started(tmp_path, PACED)
    try:
        ask_both(stack, chat("red"), chat("blue"))
    finally:
        stop_stack(stack)
