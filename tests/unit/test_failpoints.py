"""Failpoints: nothing unless asked for; what cannot be read stops the start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from monitoring import failpoints
from tests.processes import ROOT


@pytest.fixture(autouse=True)
def disarmed():
    yield
    failpoints._armed = None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("worker.befor_claim=kill", "unknown window"),
        ("worker.claimed", "action must be"),
        ("worker.claimed=explode", "action must be"),
        ("worker.claimed=sleep", "action must be"),
        ("worker.claimed=kill:3", "action must be"),
        ("worker.claimed=kill@soon", "must be numbers"),
        ("worker.claimed=sleep:long", "must be numbers"),
        ("worker.claimed=kill,worker.claimed=stop", "named twice"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, why: str) -> None:
    with pytest.raises(failpoints.FailpointsStartError, match=why):
        failpoints.parse(text)


@pytest.mark.parametrize("command", ["api", "worker"])
def test_an_unknown_window_stops_the_start(command: str) -> None:
    env = os.environ | {failpoints.VARIABLE: "worker.befor_claim=kill", "PENSTOCK_ENGINE": "simulated"}
    ended = subprocess.run(
        [sys.executable, "-m", "penstock", command],
        check=False,
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert (
        "'worker.befor_claim=kill': unknown window; choose one of worker.before_consume, worker.claimed"
        in ended.stderr
    )
    assert "Traceback" not in ended.stderr


def test_a_window_acts_once_at_its_nth_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "engine.run=raise@3, api.mid_stream=sleep:0")
    failpoints.arm_from_environment()
    failpoints.hit("engine.run")
    failpoints.hit("api.mid_stream")
    failpoints.hit("worker.claimed")
    failpoints.hit("engine.run")
    with pytest.raises(failpoints.FailpointReachedError, match=r"engine\.run"):
        failpoints.hit("engine.run")
    failpoints.hit("engine.run")
    with pytest.raises(KeyError):
        failpoints.hit("no.such.window")


def test_a_window_may_act_at_each_time_from_the_nth_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "engine.run=raise@2+")
    failpoints.arm_from_environment()
    failpoints.hit("engine.run")
    for _ in range(3):
        with pytest.raises(failpoints.FailpointReachedError):
            failpoints.hit("engine.run")


def test_nothing_is_armed_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    failpoints.arm_from_environment()
    for window in failpoints.WINDOWS:
        failpoints.hit(window)
    assert failpoints._armed is None


def test_every_window_stands_in_the_code_once_or_more() -> None:
    rooms = ("api", "broker", "coordinator", "workers")
    code = "".join(path.read_text() for room in rooms for path in (ROOT / room).rglob("*.py"))
    for window in failpoints.WINDOWS:
        assert f'failpoints.hit("{window}")' in code, window
