"""`benchmarks/peers.py`: its arithmetic, its tables, and the peers' lock files."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"
PEERS = ("litellm", "celery", "arq", "taskiq", "docket")


@pytest.fixture(autouse=True)
def _as_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def proxy() -> ModuleType:
    return importlib.import_module("_peer_proxy")


@pytest.fixture
def jobs() -> ModuleType:
    return importlib.import_module("_peer_jobs")


def seen(*rounds: tuple[float, float]) -> list[dict[str, float]]:
    return [
        {"per_s": per_s, "p50_ms": p50, "p99_ms": 2 * p50, "cpu_ms": p50, "events": 0}
        for per_s, p50 in rounds
    ]


def proxy_row(proxy: ModuleType) -> dict[str, object]:
    sides = {
        "upstream": seen((9000, 0.5), (9000, 0.1), (9000, 0.5)),
        "penstock": seen((1200, 2.5), (1000, 2.1), (1500, 3.5)),
        "litellm": seen((100, 10.5), (125, 8.1), (100, 6.5)),
    }
    row: dict[str, object] = proxy.summary(64, stream=True, seen=sides)
    return row


def test_added_time_is_that_beyond_a_direct_call_of_the_same_round(proxy: ModuleType) -> None:
    row = proxy_row(proxy)
    assert row["ratios"] == [12.0, 8.0, 15.0]
    assert row["ratio"] == 12.0
    assert row["addeds"] == [0.2, 0.25, 0.5]
    assert row["added"] == 0.25
    assert row["penstock"] == {"per_s": 1200, "p50_ms": 2.5, "p99_ms": 5.0, "cpu_ms": 2.5, "events": 0}
    assert row["cpu_ratio"] == 3.86  # of 4.2, 3.86 and 1.86


def test_a_queues_ratio_is_of_the_same_round(jobs: ModuleType) -> None:
    side = jobs.SIDES[-1]
    ours = [{"per_s": rate, "p50_ms": 2.0, "p99_ms": 4.0, "cpu_ms": 1.0} for rate in (1000, 800)]
    theirs = [one | {"per_s": rate} for one, rate in zip(ours, (500, 200), strict=True)]
    row = jobs.summary(side, theirs, ours)
    assert (row["ratio"], row["ratios"], row["per_s"]) == (3.0, [2.0, 4.0], 350)
    assert row["versions"].startswith("pydocket 0.")


def test_reports_become_tables(proxy: ModuleType, jobs: ModuleType) -> None:
    peers = importlib.import_module("peers")
    figures = {"per_s": 1234.5, "p50_ms": 2.04, "p99_ms": 4.0, "cpu_ms": 1.0}
    report = {
        "seconds": 5.0,
        "rounds": 3,
        "in_flight": 64,
        "litellm_workers": 1,
        "proxies": {"bytes_on_disk": 5687, "rows": [proxy_row(proxy)]},
        "queues": [jobs.summary(side, [figures], [figures]) for side in jobs.SIDES],
    }
    made = peers.tables(json.loads(json.dumps(report)))
    assert sorted(made) == sorted(peers.TABLES)
    assert "| 64 | streamed | 9,000 | 1,200 | 100 | 12.0 (12.0, 8.0, 15.0) |" in made["peers-proxy"]
    assert "0.25 (0.20, 0.25, 0.50) | 2.50 / 8.10 ms |" in made["peers-proxy"]
    assert "5,687 bytes" in made["peers-proxy"]
    for number, side in enumerate(jobs.SIDES):
        ratio = "1.00 (1.00)" if number else "1"
        row = f"| {side.name} | {side.versions()} | 1,234 | {ratio} | 2.0 / 4.0 ms | 1.00 ms |"
        assert row in made["peers-jobs"]
    for text in made.values():
        for block in re.findall(r"(?m)(?:^\|.*\n?)+", text):
            assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_one_part_makes_its_table_alone(proxy: ModuleType) -> None:
    report = {
        "seconds": 5.0,
        "rounds": 3,
        "litellm_workers": 1,
        "proxies": {"bytes_on_disk": 1, "rows": [proxy_row(proxy)]},
    }
    assert list(importlib.import_module("peers").tables(report)) == ["peers-proxy"]


def test_every_queue_says_what_it_keeps(jobs: ModuleType) -> None:
    rows = {row[0] for row in importlib.import_module("peers").DURABILITY}
    assert rows == {side.name.partition(",")[0] for side in jobs.SIDES}


@pytest.mark.parametrize("name", PEERS)
def test_a_lock_file_has_what_its_peer_asks_for_with_hashes(name: str) -> None:
    envs = importlib.import_module("_peer_envs")
    text = envs.lock(name).read_text()
    blocks = re.findall(r"(?m)^[a-z0-9._-]+(?:\[[^\]]*\])?==.*(?:\n[ \t].*)*", text)
    assert blocks
    assert [block for block in blocks if "--hash=sha256:" not in block] == []
    wanted = (FOLDER / "_peers" / f"{name}.in").read_text()
    for package, version in re.findall(r"(?m)^([a-z-]+)(?:\[.*\])?==(\S+)", wanted):
        assert envs.pinned(name, package) == f"{package} {version}"


def test_an_environment_is_made_anew_when_its_lock_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    envs = importlib.import_module("_peer_envs")
    monkeypatch.setattr(envs, "PEERS", tmp_path)
    (tmp_path / "one.lock").write_text("a==1\n")
    before = envs.fingerprint("one")
    assert before == envs.fingerprint("one")
    (tmp_path / "one.lock").write_text("a==2\n")
    assert envs.fingerprint("one") != before


def test_the_upstream_streams_as_many_tokens_as_it_says() -> None:
    upstream = importlib.import_module("_upstream")
    whole = json.loads(upstream._WHOLE.partition(b"\r\n\r\n")[2])
    for usage, response in upstream._STREAMS.items():
        events = re.findall(r"data: (\{.*\})\n", response.decode())
        chunks = [json.loads(event) for event in events]
        text = "".join(choice["delta"].get("content", "") for one in chunks for choice in one["choices"])
        assert text == whole["choices"][0]["message"]["content"]
        assert [one["usage"] for one in chunks if "usage" in one] == [whole["usage"]] * usage
        assert sum(bool(one["choices"]) for one in chunks) == upstream.TOKENS + 2
