"""The console's parts that need no server: what is shown, what is kept for the charts, and sealed credentials."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jinja2 import UndefinedError

from api.console.inside import Answer
from api.console.origin import MARK, check_own
from api.console.pages.job import moments, phases
from api.console.render import FOLDER, Templates, duration, number, percent, size, when
from api.console.samples import POINTS, Samples
from api.console.session import COOKIE, LONGEST_S, Sessions, TooLongError
from api.console.texts import answer_texts, request_texts
from api.console.visit import Refused
from api.http.asgi import replace_headers
from api.http.errors import ApiError
from jobs.facts import QueueFacts

NOBODY = "\N{EM DASH}"
PEPPER = b"a pepper of the tests"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, NOBODY),
        (0.0, "0 ms"),
        (0.85, "850 ms"),
        (12.5, "12.5 s"),
        (59.96, "60.0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (3600, "1 h"),
        (4 * 86_400 + 7200, "4 d 2 h"),
    ],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


def test_numbers_sizes_and_times() -> None:
    assert (number(12345.6), number(1.25, 1), number(None)) == ("12,346", "1.2", NOBODY)
    assert (size(999), size(1500), size(2.5e11), size(3e13)) == ("999 B", "1.5 kB", "250 GB", "30.0 TB")
    assert (percent(0.256), percent(None)) == ("26 %", NOBODY)
    shown = '<time datetime="1970-01-01T00:00:01.500+00:00">1970-01-01 00:00:01 UTC</time>'
    assert str(when(1.5)) == shown
    assert str(when(None)) == NOBODY


def test_no_template_leaves_out_escaping_or_holds_code() -> None:
    for path in FOLDER.glob("*.html"):
        text = path.read_text()
        for banned in ("|safe", "| safe", "autoescape", "<style", " style=", "javascript:", "hx-on", "js:"):
            assert banned not in text, f"{path.name}: {banned}"
        assert not re.search(r"<script(?![^>]* src=)", text), path.name
    with pytest.raises(UndefinedError):
        Templates().page("error.html", {})


def facts(**depths: int) -> QueueFacts:
    return QueueFacts(
        depths={(pool, "normal"): depth for pool, depth in depths.items()},
        oldest_s={},
        states={},
        delayed=0,
        dead=0,
    )


def test_an_hour_of_samples_is_kept() -> None:
    now = 1_000_000.0
    samples = Samples(lambda: now)
    workers = [
        {"pool": "chat", "running": 3, "capacity": 8, "jobs_per_s": 0.5, "tokens_per_s": 100.25},
        {"pool": "chat", "running": 1, "capacity": 8, "jobs_per_s": None, "tokens_per_s": 10},
        {"pool": "new", "running": 1, "capacity": 2},
    ]
    samples.take(facts(chat=7), workers)
    first = samples.version
    now += 9
    samples.take(facts(chat=99), workers)  # too soon
    assert samples.version == first
    assert samples.of("chat") == {
        "at": [1_000_000],
        "queued": [7],
        "running": [4],
        "slots": [16],
        "jobs_per_s": [0.5],
        "tokens_per_s": [110.2],
    }
    assert samples.of("new")["queued"] == [0]
    assert samples.of("none")["at"] == []
    for _ in range(POINTS + 5):
        now += 10
        samples.take(facts(chat=1), [])
    assert len(samples.of("chat")["at"]) == POINTS
    assert samples.of("chat", after=int(now) - 15)["at"] == [int(now) - 10, int(now)]
    for pool in range(100):
        now += 10
        samples.take(facts(**{f"p{pool}": 1}), [])
    assert samples.of("p99")["at"]
    assert not samples.of("p3")["at"]


def test_a_session_opens_what_it_sealed_for_its_time() -> None:
    now = 1000.0
    sessions = Sessions(PEPPER, lambda: now)
    value = sessions.seal("psk_key")
    assert "psk" not in value
    assert sessions.seal("psk_key") != value
    assert Sessions(PEPPER, lambda: now).open(value) == "psk_key"
    assert Sessions(b"another pepper!!", lambda: now).open(value) is None
    for place in (0, 20, len(value) - 2):
        other = "B" if value[place] != "B" else "C"
        assert sessions.open(value[:place] + other + value[place + 1 :]) is None
    cookies = f"a=b; {COOKIE}={value}; other=x"
    assert sessions.of({"type": "http", "headers": [(b"cookie", cookies.encode())]}) == "psk_key"
    for neighbour in ('prefs={"theme": "dark"}', "a b=c", "novalue", "x=\xff", 'q="', "k[0]=1"):
        for cookies in (f"{neighbour}; {COOKIE}={value}", f"{COOKIE}={value}; {neighbour}"):
            scope = {"type": "http", "headers": [(b"cookie", cookies.encode("latin-1"))]}
            assert sessions.of(scope) == "psk_key", cookies
    for odd in (b"", b"a", b"\xff=\xfe", b"penstock_console", b"penstock_console=\x00"):
        assert sessions.of({"type": "http", "headers": [(b"cookie", odd)]}) is None
    now += LONGEST_S
    assert sessions.open(value) is None
    with pytest.raises(TooLongError):
        sessions.seal("x" * 4000)


HOME = "https://penstock.example"


@pytest.mark.parametrize(
    ("site", "origin", "own"),
    [
        ("same-origin", HOME, True),  # a proxy wrote another Host, and the browser knows better
        ("same-origin", "https://other.example", True),
        (None, HOME, True),
        (None, "http://upstream:8000", True),
        (None, "https://other.example", False),
        (None, None, False),
        ("none", "https://other.example", False),
        ("same-site", HOME, False),
        ("cross-site", HOME, False),
        ("cross-site", "null", False),
    ],
)
def test_whose_pages_are_ours_behind_a_proxy(site: str | None, origin: str | None, own: bool) -> None:
    told = {b"host": "upstream:8000", b"sec-fetch-site": site, b"origin": origin, MARK: "1"}
    headers = [(name, value.encode()) for name, value in told.items() if value is not None]
    scope = {"type": "http", "method": "POST", "headers": headers}
    if own:
        check_own(scope, {HOME})
        replace_headers(scope, headers[:-1])
        with pytest.raises(ApiError):
            check_own(scope, {HOME})
    else:
        with pytest.raises(ApiError) as refused:
            check_own(scope, {HOME})
        advised = site is None and origin is not None
        assert ("proxy_set_header Host" in refused.value.message) is advised


def texts(found: Any) -> list[tuple[str, str]]:
    return [(one.role, one.text) for one in found]


def test_what_people_read_of_a_request() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:"}}
    chat = {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "what is it?"}, picture]},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}]},
        ]
    }
    assert texts(request_texts(chat)) == [
        ("system", "be brief"),
        ("user", "what is it?\n[image_url]"),
        ("assistant, tool call", '{"name": "look"}'),
    ]
    assert texts(request_texts({"prompt": ["a", "b"]})) == [("prompt", "a\nb")]
    assert texts(request_texts({"instructions": "i", "input": "t"})) == [
        ("instructions", "i"),
        ("input", "t"),
    ]
    response = {"input": [{"type": "message", "role": "user", "content": "t"}]}
    assert texts(request_texts(response)) == [("user", "t")]
    assert texts(request_texts({"prompt": [1, 2, 3]})) == []
    odd: Any
    for odd in (None, [], "x", {"messages": "x"}, {"messages": [1, {"content": 5}]}, {"input": {"a": 1}}):
        assert texts(request_texts(odd)) == []


def test_what_people_read_of_an_answer() -> None:
    message = {"role": "assistant", "content": "blue", "reasoning": "hm"}
    chat = {"choices": [{"message": message}, {"text": "t"}]}
    assert texts(answer_texts(chat)) == [
        ("assistant, reasoning", "hm"),
        ("assistant", "blue"),
        ("completion", "t"),
    ]
    parts = [{"type": "text", "text": "hello"}]
    assert texts(answer_texts({"content": parts})) == [("assistant", "hello")]
    output = {"output": [{"type": "message", "role": "assistant", "content": parts}]}
    assert texts(answer_texts(output)) == [("assistant", "hello")]
    odd: Any
    for odd in (None, 7, {"choices": None}, {"choices": [None, {}]}, {"data": [{"embedding": [1.0]}]}):
        assert texts(answer_texts(odd)) == []


def job(**more: Any) -> dict[str, Any]:
    times = {"queued_at": 10.0, "started_at": None, "first_token_at": None, "finished_at": None}
    base = {
        "state": "queued",
        "priority": "low",
        "attempt": 0,
        "worker": None,
        "history": [],
        "not_before": None,
        "error": None,
    }
    return {**base, **more, "timings": times | more.get("timings", {})}


def test_a_jobs_timeline() -> None:
    assert [one["what"] for one in moments(job())] == ["Submitted"]
    lost = {"attempt": 1, "worker": "w1", "reason": "worker_lost", "ended_at": 12.0}
    done = job(
        state="failed",
        attempt=2,
        worker="w2",
        history=[lost],
        error={"code": "timeout", "message": "too long"},
        timings={"started_at": 13.0, "first_token_at": 14.0, "finished_at": 20.0},
    )
    assert [(one["what"], one["at"], one["note"]) for one in moments(done)] == [
        ("Submitted", 10.0, "lane low"),
        ("Attempt 1 ended: worker_lost", 12.0, "w1"),
        ("Attempt 2 started", 13.0, "w2"),
        ("First token", 14.0, None),
        ("Failed", 20.0, "timeout"),
    ]
    assert [(one["name"], one["seconds"]) for one in phases(done)] == [
        ("waiting", 3.0),
        ("to the first token", 1.0),
        ("generating", 6.0),
    ]
    assert phases(job()) == []


def test_what_the_api_refused_is_read_whatever_its_body_is() -> None:
    body = {"error": {"message": "no", "code": "not_found"}}
    refused = Refused.by(Answer(404, json.dumps(body).encode(), whole=True, headers={"retry-after": "3"}))
    assert (refused.status, refused.code, refused.message, refused.retry_after_s) == (
        404,
        "not_found",
        "no",
        "3",
    )
    for odd in (b"", b"[]", b'{"error": 1}', b"<html>"):
        refused = Refused.by(Answer(502, odd, whole=True, headers={}))
        assert (refused.code, refused.message) == ("", "the server answered 502")
