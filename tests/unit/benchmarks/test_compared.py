"""The benchmarks that compare with the version before: what they make of their figures."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

import pytest

FACTS = {"date": "2026-11-30", "machine": "here"}


def cost(us: float, commands: float) -> dict[str, float]:
    return {"us": us, "commands": commands, "calls": 1}


def stages(us: float, commands: float) -> dict:
    one = {"accept": cost(us, commands), "claim": cost(us, commands), "finish": cost(us, commands)}
    return {"whole 32": one | {"total": cost(3 * us, 3 * commands)}}


SCALE = {
    "queued": 1000,
    "tenants": 10,
    "workers": 5,
    "empty": {"accept": cost(10, 5)},
    "full": {"accept": cost(12, 5)},
    "upkeep_share": 0.0123,
}


def report(**more) -> dict:
    given = {"samples": 9}
    return FACTS | {"settings": given} | more


def test_scripts_become_tables_with_ratios() -> None:
    scripts = importlib.import_module("scripts")
    found = scripts.tables(
        report(
            stages={"before": stages(60, 28), "now": stages(24, 12)},
            scale={"before": SCALE, "now": SCALE},
            memory={
                "before": {"jobs": 9, "queued": 2000, "finished": 2600},
                "now": {"jobs": 9, "queued": 1000, "finished": 1300},
            },
        )
    )
    assert sorted(found) == sorted(scripts.TABLES)
    assert "| 32 | whole | **all** | 180.0 | 72.0 | 0.40 | 84.0 | 36.0 | 0.43 |" in found["scripts-stages"]
    assert "| accept | 10 | 12 | 1.20 | 5 / 5 | 10 | 12 | 1.20 | 5 / 5 |" in found["scripts-scale"]
    assert "| - | 1.23% | - | - | - | 1.23% | - | - |" in found["scripts-scale"]
    assert "| bytes of a queued job | 2,000 | 1,000 | 0.50 |" in found["scripts-memory"]


def test_scripts_measured_on_one_side_have_no_ratio() -> None:
    scripts = importlib.import_module("scripts")
    found = scripts.tables(report(stages={"before": stages(60, 28)}))
    assert list(found) == ["scripts-stages"]
    assert "| 32 | whole | accept | 60.0 | - | - | 28.0 | - | - |" in found["scripts-stages"]


def test_a_job_costs_the_sum_of_the_medians_of_its_stages() -> None:
    scripts = importlib.import_module("scripts")
    batches = [{"accept": [us, 10, 1], "finish": [5, 3, 1]} for us in (20, 900, 30)]
    assert scripts.per_job(batches) == {
        "accept": cost(30, 10),
        "finish": cost(5, 3),
        "total": {"us": 35, "commands": 13, "calls": 2},
    }


def test_a_full_queue_has_jobs_of_every_tenant_and_most_come_from_a_few() -> None:
    parts = importlib.import_module("_scripts_parts")
    names = [f"tenant-{number}" for number in range(100)]
    owners = [parts.tenant_of(number, 5000, names) for number in range(5000)]
    assert set(owners) == set(names)
    assert set(owners[:4000]) == set(names[:10])
    assert min(owners.count(name) for name in names) == 10


def way(name: str, rate: float, **more) -> dict:
    return {"way": name, "jobs": 9, "jobs_per_s": rate, "cpu_ms": 1000 / rate} | more


def rounds(*rates: float) -> list:
    times = {"mean_ms": 5.0, "p50_ms": 4.0, "p99_ms": 9.0}
    return [
        [way("synchronous", rate, **times), way("submit, then poll", rate / 2, accepted_per_s=3000.0)]
        for rate in rates
    ]


def test_control_plane_shows_each_way_against_the_version_before() -> None:
    control_plane = importlib.import_module("control_plane")
    now, before = rounds(1600.0, 1250.0, 1000.0), rounds(1000.0, 1000.0, 1000.0)
    ratios = control_plane.ratios(now, before)
    assert ratios["synchronous"] == [1.6, 1.25, 1.0]
    rows = control_plane.middle(now)
    assert [row["jobs_per_s"] for row in rows] == [1250.0, 625.0]
    said = {"rows": rows, "before": control_plane.middle(before), "ratios": ratios}
    report = FACTS | said | {"concurrency": 4, "task_events": True}
    text = control_plane.tables(report)["control-plane"]
    ratio, cpu = "1.25 (1.60, 1.25, 1.00)", "0.80 ms | 1.00 ms | 1.25"
    assert f"| synchronous | 1250 | 5.0 ms | 9.0 ms | 1000 | {ratio} | {cpu} |" in text
    assert f"| submit, then poll | 625 | - | - | 500 | {ratio} | 1.60 ms | 2.00 ms | 1.25 |" in text


def test_tokens_of_a_run_count_by_the_time_of_the_stretch_that_it_covers() -> None:
    tokens = importlib.import_module("_fairness_tokens")
    run = tokens.Run("long", 400, 1000, 3000)
    assert run.tokens_in(0, 10_000) == 400
    assert run.tokens_in(2000, 10_000) == 200
    assert run.tokens_in(3000, 10_000) == 0
    runs = [run, tokens.Run("short", 50, 2000, 2100), tokens.Run("short", 50, 2950, 3050)]
    assert tokens.shares(runs, 2000, 3000) == pytest.approx({"long": 200 / 275, "short": 75 / 275})


def test_a_run_that_has_not_ended_ends_now() -> None:
    tokens = importlib.import_module("_fairness_tokens")
    journal = "\n".join(
        f'{{"job": "{job}", "event": "{event}", "time_ms": {at}}}'
        for job, event, at in (("a", "start", 1), ("b", "start", 2), ("a", "end", 5))
    )
    runs = tokens.runs_of(journal, {"a": ("long", 9), "b": ("short", 3)}, 8)
    assert runs == [tokens.Run("long", 9, 1, 5), tokens.Run("short", 3, 2, 8)]


def test_the_version_before_comes_whole_from_the_history_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = importlib.import_module("_before")

    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "code.py").write_text("old")
    git("add", "-A")
    git("commit", "-qm", "before")
    monkeypatch.setattr(before, "ROOT", tmp_path)
    monkeypatch.setattr(before, "COMMIT", git("rev-parse", "HEAD"))
    monkeypatch.setattr(before, "FOLDER", tmp_path / ".penstock" / "before-1")
    (tmp_path / "room" / "code.py").write_text("new")

    assert before.unavailable() is None
    assert (before.checkout() / "room" / "code.py").read_text() == "old"
    (before.FOLDER / "mark").touch()
    assert (before.checkout() / "mark").exists()


def test_a_history_without_the_version_before_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = importlib.import_module("_before")
    subprocess.run(["git", "-C", tmp_path, "init", "-q"], check=True, capture_output=True)
    monkeypatch.setattr(before, "ROOT", tmp_path)
    monkeypatch.setattr(before, "FOLDER", tmp_path / "none")
    assert before.COMMIT[:12] in before.unavailable()
    with pytest.raises(RuntimeError, match="history"):
        before.checkout()
