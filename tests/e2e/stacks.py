"""Fixtures: the whole stack as a user starts it, `penstock up`, with vLLM and with the simulated engine."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.server.guardian import die_with_parent
from tests.e2e.engines import QUICK_ENV, QUICK_FLAGS
from tests.environment import clean
from tests.otlp import OtlpReceiver
from tests.processes import ROOT
from tests.support import free_port, wait_until

DRAIN_S = 5


@dataclass(frozen=True)
class Stack:
    """A running `penstock up`."""

    url: str
    flower_url: str
    data_dir: Path
    output: Path
    process: subprocess.Popen[bytes]


def start_stack(folder: Path, *args: str, timeout_s: float = 180, **env: str) -> Stack:
    """Start `penstock up` and wait until it says that it is ready."""
    port, flower_port = free_port(), free_port()
    output = folder / "up.log"
    command = [sys.executable, "-m", "penstock", "up", f"--port={port}", f"--flower-port={flower_port}"]
    command += [f"--data-dir={folder / 'data'}", f"--drain-timeout-s={DRAIN_S}", *args]
    with output.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=out,
            stderr=out,
            env=clean() | env,
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - nothing but a system call happens there
        )
    ready = f"penstock is ready on http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, f"penstock up ended:\n{output.read_text()}"
        return ready in output.read_text()

    stack = Stack(
        f"http://127.0.0.1:{port}", f"http://127.0.0.1:{flower_port}", folder / "data", output, process
    )
    try:
        wait_until(is_ready, timeout_s)
    except BaseException:  # no process may stay behind, whatever came in between
        stop_stack(stack)
        raise
    return stack


def stop_stack(stack: Stack) -> None:
    """Stop it as Ctrl-C does, and see that it is gone."""
    if stack.process.poll() is None:
        stack.process.send_signal(signal.SIGINT)
        stack.process.wait(60)


@pytest.fixture(scope="session")
def otlp() -> Iterator[OtlpReceiver]:
    """Where ``vllm_stack`` sends its spans."""
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def vllm_stack(tmp_path_factory: pytest.TempPathFactory, otlp: OtlpReceiver) -> Iterator[Stack]:
    """`penstock up` with vLLM in the worker and the tiny model; it sends spans, and logs everything as JSON."""
    stack = start_stack(
        tmp_path_factory.mktemp("vllm-stack"),
        "--no-flower",
        *(f"--engine-arg={flag}" for flag in QUICK_FLAGS),
        **QUICK_ENV,  # type: ignore[arg-type]  # none of them is timeout_s
        PENSTOCK_OTLP_ENDPOINT=otlp.url,
        PENSTOCK_LOG_JSON="true",
        PENSTOCK_LOG_LEVEL="debug",
        VLLM_LOGGING_LEVEL="INFO",
        OTEL_BSP_SCHEDULE_DELAY="100",
    )
    yield stack
    stop_stack(stack)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`penstock up --engine simulated`, at 2 ms a token."""
    stack = start_stack(
        tmp_path_factory.mktemp("stack"),
        "--engine=simulated",
        PENSTOCK_SIMULATED_INTER_TOKEN_S="0.002",
        FLOWER_UNAUTHENTICATED_API="true",  # its buttons; by default a Flower without auth only shows
    )
    yield stack
    stop_stack(stack)
