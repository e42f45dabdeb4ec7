"""Real vLLM whose engine process is killed, or stops, below the worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.engines import QUICK_ENV, QUICK_FLAGS
from tests.e2e.stacks import Stack, start_stack, stop_stack
from tests.support import wait_until

MODEL = "tiny-random"
HELLO = [{"role": "user", "content": "Hello there, what falls through the gate?"}]

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("vllm")]


@pytest.fixture
def vllm_stack(tmp_path: Path) -> Iterator[Stack]:
    stack = start_stack(tmp_path)
    yield stack
    stop_stack(stack)


def test_a_killed_engine_costs_an_attempt_and_no_job(vllm_stack: Stack) -> None:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 3800, "ignore_eos": True}
    http = httpx.Client(timeout=30)
    jobs = [http.post(f"{vllm_stack.url}/v1/jobs", json={"input": body}).json()["id"] for _ in range(3)]

    def now(job_id: str) -> dict:
        return http.get(f"{vllm_stack.url}/v1/jobs/{job_id}").json()

    def over(job_id: str) -> dict | None:
        job = http.get(f"{vllm_stack.url}/v1/jobs/{job_id}", params={"wait": 5}).json()
        return None if job["state"] in {"queued", "running"} else job

    wait_until(lambda: all(now(job_id)["state"] != "queued" for job_id in jobs))
    assert [now(job_id)["state"] for job_id in jobs] == ["running"] * 3
    worker = now(jobs[0])["worker"]
    os.kill(engine_core(int(worker.rsplit("-", 2)[1])), signal.SIGKILL)
    for job_id in jobs:
        job = wait_until(partial(over, job_id), 120)
        assert (job["state"], job["attempt"]) == ("succeeded", 2)
        assert [a["reason"] for a in job["history"]] == ["engine_unavailable"]
    http.close()


def test_an_engine_that_takes_no_step_is_replaced(tmp_path: Path) -> None:
    """Its process lives and says nothing. On a CPU, a step may take as long as it computes."""
    flags = [f"--engine-arg={flag}" for flag in QUICK_FLAGS]
    stack = start_stack(tmp_path, "--no-flower", *flags, **QUICK_ENV, PENSTOCK_ENGINE_STALL_S="4")  # type: ignore[arg-type]
    http = httpx.Client(base_url=stack.url, timeout=60)
    try:

        def now(**params: int) -> dict:
            return http.get(f"/v1/jobs/{job_id}", params=params).json()

        long = {"model": MODEL, "messages": HELLO, "max_tokens": 3800, "ignore_eos": True}
        job_id = http.post("/v1/jobs", json={"input": long}).json()["id"]
        wait_until(lambda: now()["state"] == "running")
        core = engine_core(int(now()["worker"].rsplit("-", 2)[1]))
        os.kill(core, signal.SIGSTOP)
        wait_until(lambda: not psutil.pid_exists(core), 60)
        wait_until(lambda: now(wait=5)["state"] not in {"queued", "running"}, 120)
        job = now()
        assert (job["state"], job["attempt"]) == ("succeeded", 2)
        assert [a["reason"] for a in job["history"]] == ["engine_unavailable"]
        assert any("took no step" in log.read_text() for log in (tmp_path / "data" / "logs").glob("*.log"))
    finally:
        http.close()
        stop_stack(stack)


def engine_core(worker_pid: int) -> int:
    """Return the pid of the worker's engine process."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            command = (stat.parent / "cmdline").read_text()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == worker_pid and "EngineCore" in command:
            return int(stat.parent.name)
    raise AssertionError(f"worker {worker_pid} has no engine process")
