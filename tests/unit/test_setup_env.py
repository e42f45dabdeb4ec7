"""What the installation says while pip is silent."""

from __future__ import annotations

import re
import sys

from tools import setup_env


def test_a_long_step_says_now_and_then_that_it_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(setup_env, "SAY_EVERY_S", 0.02)
    monkeypatch.setattr(setup_env, "VENV", tmp_path)
    for name in ("a-1", "b-2"):
        (tmp_path / "lib" / "python3.12" / "site-packages" / f"{name}.dist-info").mkdir(parents=True)
    with (tmp_path / "log").open("wb") as log:
        status = setup_env.logged(
            [sys.executable, "-c", "import time; time.sleep(0.3); raise SystemExit(3)"], log
        )
    assert status == 3
    said = capsys.readouterr().out.splitlines()
    assert said
    assert all(
        re.fullmatch(r"setup: still at it after \d+ s; 2 packages are installed", line) for line in said
    )
