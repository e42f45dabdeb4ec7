"""``penstock bench URL`` against a server whose answers and times the test chooses."""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import pytest

from penstock.bench.figures import Call, Figures
from penstock.bench.histogram import Histogram
from penstock.bench.plot import bars, line
from penstock.bench.report import doubts
from tests.modelserver import ModelServer
from tests.support import wait_until
from tests.terminal import Terminal
from tests.unit.penstock.test_cli import run


@pytest.fixture(scope="module")
def shared_models() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def models(shared_models: ModelServer) -> ModelServer:
    shared_models.reset()
    return shared_models


def bench(server: ModelServer, *args: str, code: int = 0) -> dict:
    done = run("http://127.0.0.1:1", "bench", server.url, *args)  # the argument counts, not --url
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_it_counts_calls_tokens_and_times_as_they_were(models: ModelServer) -> None:
    models.first_s, models.gap_s, models.pieces = 0.05, 0.02, ["w"] * 6
    found = bench(models, "--requests", "12", "--concurrency", "4")
    assert found["requests"] == {"sent": 12, "succeeded": 12, "failed": 0, "interrupted": 0, "not_sent": 0}
    assert found["tokens_counted_by"] == "server"
    rates, seconds = found["rates"], found["seconds"]
    assert rates["requests_per_s"] == pytest.approx(12 / seconds, rel=0.01)
    assert rates["output_tokens_per_s"] == pytest.approx(12 * 6 / seconds, rel=0.01)
    assert rates["prompt_tokens_per_s"] == pytest.approx(12 * 7 / seconds, rel=0.01)
    counts = (found[name]["count"] for name in ("ttft_ms", "inter_token_ms", "time_per_output_token_ms"))
    assert tuple(counts) == (12, 12 * 5, 12)
    # A loaded machine is late. Early it is by less than a millisecond: the server's event loop counts in those.
    assert found["ttft_ms"]["min"] >= 50 - 1
    # A piece that comes late makes the time after it short: what holds is the time to the last one.
    assert found["ttft_ms"]["mean"] + 5 * found["inter_token_ms"]["mean"] >= (50 + 5 * 20) * 0.99
    assert found["end_to_end_ms"]["min"] >= (50 + 5 * 20) * 0.99
    assert models.most <= 4


def test_whole_answers_and_other_endpoints(models: ModelServer) -> None:
    found = bench(models, "--whole", "--requests", "5")
    assert (found["end_to_end_ms"]["count"], found["ttft_ms"]["count"]) == (5, 0)
    assert found["rates"]["output_tokens_per_s"] > 0
    assert "stream" not in models.bodies[-1]
    found = bench(
        models, "--endpoint", "completions", "--requests", "5", "--ignore-eos", "-d", '{"temperature": 0}'
    )
    assert found["ttft_ms"]["count"] == 5
    sent = models.bodies[-1]
    assert (sent["ignore_eos"], sent["temperature"], sent["max_tokens"]) == (True, 0, 64)
    assert isinstance(sent["prompt"], str)


def test_a_server_that_counts_no_tokens_gets_its_pieces_counted(models: ModelServer) -> None:
    models.usage = False
    found = bench(models, "--requests", "3")
    assert (found["tokens_counted_by"], found["inter_token_ms"]["count"]) == ("pieces", 6)


def test_prompts_are_all_different_and_the_same_with_the_same_seed(models: ModelServer) -> None:
    def prompts() -> set[str]:
        return {body["messages"][0]["content"] for body in models.bodies if body["max_tokens"] == 64}

    bench(models, "--requests", "20", "--prompt-tokens", "40")
    first = prompts()
    assert len(first) == 20
    models.seen.clear()
    bench(models, "--requests", "20", "--prompt-tokens", "40")
    assert prompts() == first
    models.seen.clear()
    bench(models, "--requests", "20", "--prompt-tokens", "40", "--seed", "2")
    assert not prompts() & first


def test_prompts_of_a_file(models: ModelServer, tmp_path) -> None:
    file = tmp_path / "prompts.jsonl"
    said = [{"role": "user", "content": "three"}]
    body = {"messages": [], "n": 1, "max_tokens": 3, "temperature": 1, "stream": False, "model": "own"}
    rows = ["one", '{"prompt": "two"}', json.dumps({"messages": said}), json.dumps({"body": body})]
    file.write_text("\n".join([*rows, ""]))
    once = ("--requests", "4", "--concurrency", "1")
    bench(models, "--prompts", str(file), *once, "--data", '{"temperature": 0}')
    texts = [body["messages"] for body in models.bodies[1:]]  # without the first call, which is no load
    assert texts == [[{"role": "user", "content": "one"}], [{"role": "user", "content": "two"}], said, []]
    last = models.bodies[-1]  # what it says counts, except whether it streams; --data counts more
    assert (last["max_tokens"], last["temperature"], last["stream"], last["model"]) == (3, 0, True, "own")
    file.write_text('{"nothing": 1}\n')
    done = run(models.url, "bench", models.url, "--prompts", str(file))
    assert (done.returncode, "prompts.jsonl:1 has no prompt" in done.stderr) == (2, True)


def test_errors_are_counted_by_code_with_an_example(models: ModelServer) -> None:
    bench(models, "--requests", "1")
    models.refusals.extend([(200, {}), (200, {})])  # the two questions for the length of a prompt
    models.refusals.extend([(429, {"error": {"message": "full", "code": "queue_full"}})] * 3)
    models.refusals.append((500, {"error": {"message": "broken"}}))
    found = bench(models, "--requests", "10", "--concurrency", "2", code=1)
    assert {code: one["count"] for code, one in found["errors"].items()} == {"429 queue_full": 3, "500": 1}
    assert found["errors"]["429 queue_full"]["example"] == "429: full"
    assert (found["requests"]["succeeded"], found["end_to_end_ms"]["count"]) == (6, 6)


@pytest.mark.parametrize(("fault", "code"), [("cut_after", "cut"), ("fail_after", "500 engine_error")])
def test_a_stream_that_breaks_is_an_error(models: ModelServer, fault: str, code: str) -> None:
    setattr(models, fault, 1)
    found = bench(models, "--requests", "3", code=4)
    assert found["errors"][code]["count"] == 3
    assert found["ttft_ms"]["count"] == 0


def test_a_call_without_an_end_is_given_up(models: ModelServer) -> None:
    models.gap_s = 60.0
    models.refusals.extend([(200, {}), (200, {})])
    found = bench(models, "--requests", "2", "--timeout", "1s", code=4)
    assert found["errors"]["timeout"]["count"] == 2
    wait_until(lambda: models.gone == 2)


def test_a_server_that_is_not_there_or_refuses_ends_it_before_the_load(models: ModelServer) -> None:
    done = run(models.url, "bench", "http://127.0.0.1:1", "--model", "m")
    assert (done.returncode, "cannot reach" in done.stderr) == (3, True)
    models.refusals.append((404, {"error": {"message": "no such model", "code": "model_not_found"}}))
    done = run(models.url, "bench", models.url, "--model", "other")
    assert (done.returncode, "model_not_found" in done.stderr, len(models.bodies)) == (4, True, 1)


def test_prompts_of_a_file_begin_with_one_call_too(models: ModelServer, tmp_path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\n")
    args = ("--model", "m", "--prompts", str(file), "--duration", "1s", "--timeout", "1s")
    done = run(models.url, "bench", "http://127.0.0.1:1", *args)
    assert (done.returncode, "cannot reach" in done.stderr, "--url" in done.stderr) == (3, True, False)
    done = run(models.url, "bench", "http://127.0.0.1:1", "--prompts", str(file))
    assert (done.returncode, "--url" in done.stderr) == (3, False)
    models.gap_s = 60.0
    done = run(models.url, "bench", models.url, *args)
    assert (done.returncode, "no answer within 1 s" in done.stderr, len(models.bodies)) == (3, True, 1)
    wait_until(lambda: models.gone == 1)


@pytest.mark.full
def test_calls_that_run_at_the_end_are_awaited_to_their_timeout(models: ModelServer) -> None:
    models.gap_s = 60.0
    models.refusals.extend([(200, {}), (200, {})])
    found = bench(models, "--duration", "0.2s", "--concurrency", "2", "--timeout", "32s", code=4)
    assert (found["errors"]["timeout"]["count"], found["requests"]["interrupted"]) == (2, 0)
    wait_until(lambda: models.gone == 2)


def test_arrivals_keep_their_rate_whatever_the_server_does(models: ModelServer) -> None:
    models.first_s = 1.0
    found = bench(models, "--rate", "40", "--requests", "20", "--max-in-flight", "10")
    took = found["requests"]
    assert took["sent"] == 20
    assert took["not_sent"] >= 5  # ten were running, and more came meanwhile
    assert models.most == 10
    assert any("--max-in-flight was reached" in one for one in found["doubts"])
    bench(models, "--rate", "0.001", "--duration", "0.1s", code=1)  # no call was due


def test_the_warm_up_is_not_measured(models: ModelServer) -> None:
    models.first_s, began = 0.05, time.monotonic()
    found = bench(models, "--warm-up", "0.3s", "--duration", "0.5s", "--concurrency", "2")
    took = time.monotonic() - began
    sent = sum(body["max_tokens"] == 64 for body in models.bodies)
    assert 0.45 < found["seconds"] < took - 0.3
    assert 0 < found["requests"]["sent"] < sent - 2


def test_ctrl_c_ends_it_with_what_was_measured(models: ModelServer, tmp_path) -> None:
    models.first_s, models.gap_s = 0.01, 0.005
    picture = tmp_path / "bench.svg"
    args = ("bench", models.url, "--duration", "10m", "--svg", str(picture))
    with Terminal(*args, env={}) as screen:
        screen.expect("req/s")  # the line while it runs
        models.gap_s = 60.0
        wait_until(lambda: models.stuck == 16)  # no call ends any more
        screen.interrupt()
        screen.expect("succeeded")
        assert screen.end() == 130
    assert re.search(r"requests/s +\d+\.\d\d", screen.shown)
    assert "16 interrupted" in screen.shown
    assert "time to first token" in screen.shown
    assert "█" in screen.shown
    wait_until(lambda: models.gone == 16)
    assert ET.parse(picture).getroot().tag.endswith("svg")


def test_percentiles_are_within_half_a_per_cent() -> None:
    dice, times = random.Random(1), Histogram()
    values = sorted(dice.lognormvariate(-3, 1) for _ in range(5000))
    for value in values:
        times.add(value)
    for share in (0.001, 0.5, 0.9, 0.95, 0.99, 1.0):
        exact = values[math.ceil(share * len(values)) - 1]
        assert times.quantile(share) == pytest.approx(exact, rel=0.0051)
    assert sum(count for _, _, count in times.bars(12)) == 5000
    assert Histogram().quantile(0.5) is None
    assert len(bars("x", times, 80)) == 11


@pytest.mark.parametrize("seconds", [2.0, 7.0, 40.0])
def test_rates_do_not_depend_on_how_many_calls_end_in_time(seconds: float) -> None:
    figures = Figures()
    figures.since, figures.until = 10.0, 10.0 + seconds
    for start in range(2, 60, 4):  # four callers, one stream of 25 pieces a second after the other
        for _ in range(4):
            stream = Call(sent=start, first=start + 0.04, gaps=[0.04] * 99, ended=start + 4.0)
            stream.pieces, stream.tokens, stream.prompt_tokens = 100, 200, 40
            figures.add(stream)
            figures.add(Call(sent=start, ended=start + 4.0, tokens=200, prompt_tokens=40))  # a whole answer
    now = 100.0
    assert figures.rate(figures.tokens, now) == pytest.approx(2 * 200, rel=0.03)
    assert figures.rate(figures.prompt_tokens, now) == pytest.approx(2 * 40)
    assert figures.rate(figures.done, now) == pytest.approx(2)
    assert sum(part.tokens for part in figures.slices) == pytest.approx(figures.tokens)
    assert any("on average" in one for one in doubts(figures, now)) == (seconds < 40)


def test_a_call_that_was_given_up_counts_the_text_that_had_come() -> None:
    figures = Figures()
    figures.since = 0.0
    figures.add(Call(sent=0.0, first=0.1, gaps=[0.1], ended=0.2, tokens=6))
    figures.interrupt(Call(sent=0.0, first=0.1, gaps=[0.1, 0.1]))
    assert (figures.tokens, figures.interrupted, figures.sent) == (6 + 3 * 3, 1, 1)


def test_times_count_from_when_a_call_was_due() -> None:
    figures = Figures()
    figures.since = 0.0
    figures.add(Call(sent=3.0, due=1.0, first=3.1, last=3.1, ended=3.5))
    found = figures.as_json(10.0)
    assert [found[name]["max"] for name in ("ttft_ms", "end_to_end_ms", "service_ms")] == [2100, 2500, 500]
    assert found["client"]["sent_late_ms_p99"] == 2000


def test_a_day_takes_no_more_memory_than_a_minute() -> None:
    figures = Figures()
    figures.since = 0.0
    for second in range(86_400 // 10):
        figures.add(Call(sent=second * 10.0, ended=second * 10.0 + 1, first=second * 10.0 + 0.5, tokens=3))
    assert len(figures.slices) <= 600
    assert sum(part.calls for part in figures.slices) == figures.done == 8640
    assert sum(part.tokens for part in figures.slices) == 3 * 8640
    assert figures.rate(figures.done, 86_400.0) == pytest.approx(0.1)
    for number in range(1000):
        figures.fail(f"code {number}", "no")
    assert len(figures.errors) <= 51


def test_a_line_shows_how_a_rate_went() -> None:
    assert line("calls/s", [0.0, 4.0, 8.0, 8.0], 80) == "calls/s  ▁▅██  up to 8.0"
    assert line("calls/s", [], 80) == ""
