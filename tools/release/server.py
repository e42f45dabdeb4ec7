"""A server out of the api image's context, which the wheel and the npm package talk to."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.release.runs import ReleaseError

START_S = 60.0


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def up(penstock: Path, folder: Path) -> Iterator[str]:
    """Run ``penstock up`` with the simulated engine, and give its address.

    Raises:
        ReleaseError: it does not become ready.
    """
    port = _free_port()
    options = (
        "--engine",
        "simulated",
        "--port",
        str(port),
        "--data-dir",
        str(folder / "data"),
        "--no-flower",
    )
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen([penstock, "up", *options], cwd=folder, env=env, stdout=log, stderr=log)
        try:
            base = f"http://127.0.0.1:{port}"
            _wait(base, process, folder / "up.log")
            yield base
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired as error:
                process.kill()
                process.wait()
                raise ReleaseError("penstock up did not end within 30 s of SIGTERM") from error


def _wait(base: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{base}/health/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise ReleaseError(f"penstock up is not ready:\n{log.read_text()[-2000:]}")
