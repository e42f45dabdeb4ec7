"""The worker's own temporary folder, in processes of their own: it goes with them, or with the next one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_HOLD = """
import sys
from workers.engines.vllm.scratch import Sockets, folder
sockets = Sockets()
print(folder(), __import__("os").environ["VLLM_RPC_BASE_PATH"], flush=True)
sys.stdin.readline()
sockets.remove()
print(*sorted(one.name for one in folder().iterdir()), flush=True)
"""


def start(tmp: Path, **env: str) -> tuple[subprocess.Popen[str], Path, Path]:
    """Start a process that holds a folder; return it, its folder, and that of its sockets."""
    ours = {name: value for name, value in os.environ.items() if name != "VLLM_RPC_BASE_PATH"}  # an engine's
    held = subprocess.Popen(
        [sys.executable, "-c", _HOLD],
        env={**ours, "TMPDIR": str(tmp), **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert held.stdout is not None
    folder, sockets = held.stdout.readline().split()
    return held, Path(folder), Path(sockets)


@pytest.fixture
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder with a short name, as sockets need one."""
    return Path(os.path.realpath(tmp_path_factory.mktemp("t")))


def test_a_folder_goes_with_its_process_and_that_of_a_killed_one_with_the_next(tmp: Path) -> None:
    killed, left, sockets = start(tmp)
    assert sockets.parent == left
    assert len(str(sockets)) <= 70
    killed.kill()
    killed.communicate()
    assert left.is_dir()
    living, kept, _ = start(tmp)
    assert not left.exists()
    other, _, _ = start(tmp)
    assert kept.is_dir(), "its process lives"
    for process in (living, other):
        said, _ = process.communicate("end\n")
        assert said.split() == ["lock"], "the sockets went with their engine"
    assert not list(tmp.glob("penstock-vllm-*"))


def test_a_long_name_and_a_folder_of_the_operators(tmp: Path) -> None:
    long = tmp / ("x" * 60)
    long.mkdir()
    held, folder, _ = start(long)
    assert folder.parent == Path("/tmp")
    held.communicate("end\n")
    assert not folder.exists()
    held, _, sockets = start(tmp, VLLM_RPC_BASE_PATH="/run/mine")
    assert sockets == Path("/run/mine")
    held.communicate("end\n")
