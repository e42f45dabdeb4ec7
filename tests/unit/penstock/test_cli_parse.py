"""What the user typed, read or refused in words."""

from __future__ import annotations

import click
import pytest

from penstock.cli._parse import batch_endpoint, duration, endpoint, grace, pair, prompt_body, raw_body


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
        ("/v1/other", "/v1/other"),
    ],
)
def test_endpoints(text, path):
    assert endpoint(text) == path


def test_rows_of_batches_have_one_more_endpoint():
    assert batch_endpoint("responses") == batch_endpoint("/v1/responses") == "/v1/responses"
    assert batch_endpoint("chat") == "/v1/chat/completions"
    with pytest.raises(click.BadParameter):
        endpoint("responses")


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


@pytest.mark.parametrize(("path", "system"), [("/v1/completions", "x"), ("/v1/other", None)])
def test_a_prompt_that_fits_no_body(path, system):
    with pytest.raises(click.UsageError):
        prompt_body(path, "hi", system)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'"x"', b"\xff"])
def test_input_that_is_no_body(text):
    with pytest.raises(click.UsageError, match="--input"):
        raw_body(text)
