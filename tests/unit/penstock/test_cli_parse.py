"""What the user typed, read or refused in words."""

from __future__ import annotations

import click
import pytest

from penstock.cli._parse import duration, endpoint, grace, pair, prompt_body, raw_body, sampling


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5", 1.5),
        ("10m", 600),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("1d2h3m4s", 93_784),
        (" 5m ", 300),
    ],
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-5", "m", "10x", "30m1h", "1e3", "inf", "nan", "5 m"])
def test_what_is_no_duration(text):
    with pytest.raises(click.BadParameter, match="not a duration"):
        duration(text)


def test_a_grace_may_be_nothing():
    assert [grace(text) for text in ("0", "0s", " 0 ", "2m")] == [0, 0, 0, 120]
    with pytest.raises(click.BadParameter, match="not a duration"):
        grace("-1")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("chat", "/v1/chat/completions"),
        ("completions", "/v1/completions"),
        ("embeddings", "/v1/embeddings"),
        ("responses", "/v1/responses"),
        ("messages", "/v1/messages"),
        ("rerank", "/v1/rerank"),
        ("/v1/other", "/v1/other"),
        ("/tokenize", "/tokenize"),
    ],
)
def test_endpoints(text, path):
    assert endpoint(text) == path


def test_an_endpoint_that_is_none():
    with pytest.raises(click.BadParameter, match="chat, completions, embeddings"):
        endpoint("chta")


@pytest.mark.parametrize(("text", "found"), [("a=b", ("a", "b")), ("a=", ("a", "")), ("a=b=c", ("a", "b=c"))])
def test_pairs(text, found):
    assert pair(text) == found


@pytest.mark.parametrize("text", ["a", "=b", ""])
def test_what_is_no_pair(text):
    with pytest.raises(click.BadParameter, match="key=value"):
        pair(text)


def test_prompts_become_bodies():
    user = {"role": "user", "content": "hi"}
    assert prompt_body("/v1/chat/completions", "hi", None) == {"messages": [user]}
    assert prompt_body("/v1/chat/completions", "hi", "be brief") == {
        "messages": [{"role": "system", "content": "be brief"}, user]
    }
    assert prompt_body("/v1/completions", "hi", None) == {"prompt": "hi"}
    assert prompt_body("/v1/embeddings", "hi", None) == {"input": "hi"}
    assert prompt_body("/v1/classify", "hi", None) == {"input": "hi"}
    assert prompt_body("/tokenize", "hi", None) == {"prompt": "hi"}
    assert prompt_body("/v1/responses", "hi", "be brief") == {"input": "hi", "instructions": "be brief"}
    assert prompt_body("/v1/messages", "hi", None) == {"messages": [user], "max_tokens": 1024}
    assert prompt_body("/v1/messages", "hi", "be brief")["system"] == "be brief"


def test_sampling_has_the_endpoints_own_names():
    assert sampling("/v1/chat/completions", 5, 0.0) == {"max_tokens": 5, "temperature": 0.0}
    assert sampling("/v1/responses", 5, None) == {"max_output_tokens": 5}
    assert sampling("/v1/messages", None, None) == {}


@pytest.mark.parametrize(
    ("path", "system"), [("/v1/completions", "x"), ("/v1/other", None), ("/v1/rerank", None)]
)
def test_a_prompt_that_fits_no_body(path, system):
    with pytest.raises(click.UsageError):
        prompt_body(path, "hi", system)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'"x"', b"\xff"])
def test_input_that_is_no_body(text):
    with pytest.raises(click.UsageError, match="--input"):
        raw_body(text)
    with pytest.raises(click.UsageError, match="--data"):
        raw_body(text, "--data")
