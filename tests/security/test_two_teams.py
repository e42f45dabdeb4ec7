"""The commands of docs/operate/tenants.md as a new user runs them: typed from the page, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environment import clean
from tests.processes import ROOT
from tests.support import free_port, wait_until

PAGE = (ROOT / "docs" / "operate" / "tenants.md").read_text().partition("## What to do when")[0]
FIRST, *REST = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a shell whose folder has a server of the page's first command."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "penstock"
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -P -m penstock "$@"\n')
    command.chmod(0o755)
    env = {name: text for name, text in clean().items() if not name.startswith("PENSTOCK_")}
    env["PATH"] = f"{command.parent}{os.pathsep}{env['PATH']}"
    for_tests = {
        "PENSTOCK_ENGINE": "simulated",
        "PENSTOCK_FLOWER": "false",
        "PENSTOCK_PORT": str(free_port()),
    }
    said = tmp_path / "up.log"
    with said.open("wb") as out:
        up = subprocess.Popen(
            ["sh", "-c", f"exec {FIRST}"], cwd=tmp_path, env=env | for_tests, stdout=out, stderr=out
        )
    try:
        wait_until(lambda: "penstock is ready" in said.read_text() or up.poll() is not None, 60)
        assert up.poll() is None, said.read_text()
        yield env
    finally:
        up.terminate()
        up.wait(30)


def test_two_teams_in_ten_commands(shell: dict[str, str], tmp_path: Path) -> None:
    commands = [line for block in (FIRST, *REST) for line in block.splitlines() if "penstock " in line]
    assert len(commands) == 10
    script = "set -ex\n" + "".join(REST)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=shell,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    used = {(row["tenant"], row["requests"]) for row in rows if row.get("tenant") and "input_tokens" in row}
    assert used == {("research", 2), ("product", 1)}
    jobs = {row["id"] for row in rows if row.get("object") == "job"}
    assert len(jobs) == 1, "the list of one team has its own job alone"
    acts = sorted(row["what"] for row in rows if "what" in row)
    assert acts == ["key.create", "key.create", "tenant.set", "tenant.set"]
    admin = tmp_path / ".penstock" / "admin.key"
    assert admin.stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "research.jsonl").read_text().splitlines()) == 2
