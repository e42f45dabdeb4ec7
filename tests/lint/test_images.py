"""What the images hold is enough to run: the packages that a Dockerfile copies, in a folder, and nothing else of ours."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environment import clean
from tests.processes import ROOT

NO_REDIS = {"PENSTOCK_REDIS_URL": "redis://127.0.0.1:1/0"}
RUN = f"""
import runpy, sys
sys.path.remove({str(ROOT)!r})  # where an editable install would find what is missing
runpy.run_module("penstock", run_name="__main__", alter_sys=True)
"""
OPERATOR = RUN.replace('"penstock"', '"deploy.operator"')
IMPORT = f"""
import sys
sys.path.remove({str(ROOT)!r})
import api.main, coordinator.main, penstock.server.flower
print(api.__file__)
"""


def run(dockerfile: str, folder: Path, code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    for package in re.findall(r"(?m)^COPY ([a-z/]+) \1$", (ROOT / "deploy" / dockerfile).read_text()):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    env = clean() | NO_REDIS | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-P", "-c", code, *argv]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("dockerfile", ["api.Dockerfile", "worker.Dockerfile"])
def test_a_worker_runs_until_it_asks_redis(dockerfile: str, tmp_path: Path) -> None:
    done = run(dockerfile, tmp_path, RUN, "worker", "run", "--engine", "simulated")
    assert done.returncode == 1
    assert "penstock worker: cannot reach Redis at redis://127.0.0.1:1/0" in done.stderr


def test_the_workers_health_check_runs_until_it_asks_redis(tmp_path: Path) -> None:
    done = run("worker.Dockerfile", tmp_path, RUN, "worker", "check")
    assert done.returncode == 1
    assert "penstock worker check: cannot ask Redis for the lease" in done.stderr


def test_the_other_processes_find_what_they_import(tmp_path: Path) -> None:
    done = run("api.Dockerfile", tmp_path, IMPORT)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/api/__init__.py\n"), done.stderr


def test_the_operator_runs_until_it_reads_what_the_chart_wrote(tmp_path: Path) -> None:
    done = run("operator.Dockerfile", tmp_path, OPERATOR)
    assert done.returncode == 1
    assert "penstock operator: " in done.stderr
    assert "OperatorSettings" in done.stderr
