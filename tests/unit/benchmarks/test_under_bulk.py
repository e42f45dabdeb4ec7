"""`benchmarks/interactive_under_bulk.py`: its arrivals, its bulk, its stages, and what it makes of them."""

from __future__ import annotations

import importlib
import os
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest


def call(**given):
    calls = importlib.import_module("_calls")
    facts = {"at_s": 0.0, "late_s": 0.0, "busy": True, "trace": "t", "sent_ns": 0, "first_ns": 20_000_000}
    facts |= {"ttft_ms": 20.0, "gaps_ms": (8.0,), "prompt": 100, "completion": 11}
    return calls.Call(**(facts | given))


def test_the_same_seed_makes_the_same_arrivals_at_the_rate() -> None:
    arrivals = importlib.import_module("_calls").Arrivals(rate=10.0, calls=4000)
    times = arrivals.times(3)
    assert times == arrivals.times(3) != arrivals.times(4)
    assert times[-1][0] == pytest.approx(arrivals.seconds(), rel=0.05)
    assert all(busy for _, busy in times)


def test_bursts_come_and_go() -> None:
    arrivals = importlib.import_module("_calls").Arrivals(
        rate=15.0, calls=4000, burst_s=45.0, idle_s=15.0, idle_rate=1.0
    )
    times = arrivals.times(3)
    assert all((at % 60 < 45) == busy for at, busy in times)
    quiet = sum(not busy for _, busy in times)
    assert quiet / len(times) == pytest.approx(15 / (15 + 45 * 15), abs=0.01)
    assert times[-1][0] == pytest.approx(arrivals.seconds(), rel=0.1)


def test_lengths_of_bulk_are_as_the_kind_says() -> None:
    load, dice = importlib.import_module("_bulk_load"), random.Random(1)
    assert {load.KINDS["equal"].row(dice) for _ in range(50)} == {(8, 128)}
    rows = [load.KINDS["lognormal"].row(dice) for _ in range(20_000)]
    assert sum(tokens for _, tokens in rows) / len(rows) == pytest.approx(128, rel=0.05)
    assert max(tokens for _, tokens in rows) == load.MOST_TOKENS
    assert {min(words for words, _ in rows), max(words for words, _ in rows)} == {30, 300}


def spans(handed_ms: int | None, send_ms: int = 4):
    events = [SimpleNamespace(name="first_token", time_unix_nano=18_000_000)]
    if handed_ms is not None:
        events.append(SimpleNamespace(name="handed_over", time_unix_nano=handed_ms * 1_000_000))
    engine = SimpleNamespace(start_time_unix_nano=6_000_000, events=events)
    return {"send": SimpleNamespace(end_time_unix_nano=send_ms * 1_000_000), "chat": engine}


def test_stages_add_up_to_the_time_to_first_token() -> None:
    stages = importlib.import_module("_stages")
    row = stages.by_stage([call()], {"t": spans(9)})
    found = {name: row[name]["p50"] for name in stages.STAGES}
    assert found == {"accept": 4.0, "claim": 2.0, "render": 3.0, "engine": 9.0, "delivery": 2.0}
    assert row["traced"] == 1.0


def test_a_claim_before_the_api_knows_takes_no_time() -> None:
    stages = importlib.import_module("_stages")
    row = stages.by_stage([call()], {"t": spans(9, send_ms=7)})
    assert (row["accept"]["p50"], row["claim"]["p50"]) == (6.0, 0.0)


def test_calls_without_a_whole_trace_are_counted() -> None:
    stages = importlib.import_module("_stages")
    assert stages.by_stage([call(), call(trace="other")], {"t": spans(9)})["traced"] == 0.5
    assert stages.by_stage([call()], {}) == {}


def test_bulk_is_net_of_what_the_calls_tokens_take() -> None:
    paced, spells = importlib.import_module("_paced"), importlib.import_module("_spells")
    cost = importlib.import_module("workers.engines.vllm.step_cost").of_ms(6.0, 0.1, 0.02)
    assert paced.device_share(cost, [call()] * 50, wall_s=1.0) == pytest.approx(0.15)
    alone = {"ttft_ms": {"p50": 20.0, "p95": 30.0, "p99": 40.0}}
    row = {"ttft_ms": {"p50": 30.0, "p95": 45.0, "p99": 60.0}, "others_per_s": 807.5, "device_share": 0.15}
    found = spells.against(row, alone, rate=1000.0)
    assert found["ratio"] == {"p50": 1.5, "p95": 1.5, "p99": 1.5}
    assert (found["bulk_kept"], found["bulk_net"]) == (0.807, 0.95)


def test_repeats_become_medians() -> None:
    bench = importlib.import_module("interactive_under_bulk")
    runs = [{"a": {"p50": value}, "name": "x"} for value in (3.0, 1.0, 2.0)]
    assert bench.median(runs) == {"a": {"p50": 2.0}, "name": "x"}


def test_means_without_a_setting_are_taken_out_of_a_process() -> None:
    bench = importlib.import_module("interactive_under_bulk")
    env = bench.without(bench.MEANS)
    assert (env["PENSTOCK_LANE_SCHEDULER"], env["PENSTOCK_JUST_IN_TIME"]) == ("false", "false")
    asked = (
        "from workers.admission.pace import Pace\n"
        "from workers.engines.vllm.held_outputs import is_read_at_the_end\n"
        "from workers.engines.vllm.rendering import BULK_AT_ONCE, by_priority\n"
        "from workers.engines.vllm.turns import Turns\n"
        "Turns().after(lambda: print('now'))\n"
        "print(Pace(8).room(100, 0.0), is_read_at_the_end(None), BULK_AT_ONCE > 1000, by_priority(None))"
    )
    path = os.pathsep.join([str(bench.ROOT), env["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", asked],
        env=os.environ | env | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["now", "100", "False", "True", "False"]


@pytest.mark.parametrize(("alone", "kept"), [({"tokens_per_s": 200.0}, "0.50"), ({}, "0.80")])
def test_means_are_compared_with_bulk_alone_or_else_beside_the_same_calls(
    alone: dict[str, float], kept: str
) -> None:
    ttft = {"p50": 10.0, "p95": 20.0, "p99": 30.0}

    def stack(others_per_s: float) -> dict[str, object]:
        row: dict[str, object] = {
            "calls": 9,
            "ttft_ms": ttft,
            "others_per_s": others_per_s,
            "device_share": 0.0,
        }
        row["ratio"] = {"p50": 1.0, "p99": 1.0}
        return {"alone": {"15/s": {"ttft_ms": ttft}}, "bulk": {"equal": {"beside": {"15/s": row}} | alone}}

    found = {"all": stack(125.0), "without pace": stack(100.0)}
    page = importlib.import_module("_bulk_tables").means_table(found)
    assert f"| {kept} |" in page.splitlines()[-1]
