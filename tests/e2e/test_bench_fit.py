"""``penstock bench fit``: the pace of an engine, measured on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.environment import clean
from tests.processes import ROOT
from workers.engines.vllm.step_cost import parse

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("vllm")]


def bench_fit(data_dir: Path, *args: str) -> str:
    command = [sys.executable, "-m", "penstock", "bench", "fit", f"--data-dir={data_dir}", *args]
    done = subprocess.run(
        command, cwd=ROOT, env=clean(), capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_it_finds_a_paced_engines_constants(tmp_path: Path) -> None:
    report: dict[str, Any] = json.loads(
        bench_fit(tmp_path, "--paced=8,0.2,0.02", "--concurrency=16", "--json")
    )
    assert report["engine"] == "paced on paced"
    # No step of a paced engine ends before its time, and this machine's own work comes on top.
    for decodes, prompt_tokens, took_ms in report["medians"]:
        assert took_ms >= 0.999 * parse("8,0.2,0.02").step_s(decodes, prompt_tokens) * 1000
    assert {decodes for decodes, prompt, _ in report["medians"] if not prompt} >= {1, 2, 4, 8, 16}
    assert {prompt for decodes, prompt, _ in report["medians"] if not decodes} >= {64, 512, 4096}
    assert parse(report["paced"]).ms() == pytest.approx(
        (report["base_ms"], report["per_decode_ms"], report["per_prompt_token_ms"]), rel=1e-3
    )


def test_it_measures_a_model(tmp_path: Path) -> None:
    text = bench_fit(tmp_path, "--concurrency=4")
    assert "tiny-random on cpu" in text
    pace = text.strip().rpartition("--paced ")[2]
    assert min(parse(pace).ms()) >= 0
