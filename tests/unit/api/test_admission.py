"""What is checked at the edge, and what is left to the engine."""

from __future__ import annotations

import json
import re
import tracemalloc
from typing import Any

import pytest

from api.admission.abilities import check_abilities
from api.admission.admit import model_name
from api.admission.request_bodies import SCHEMAS, check_body
from api.http.body import parse_object, validate
from api.http.errors import ApiError
from api.http.idempotency import idempotency_key
from api.http.pages import decode_cursor, encode_cursor
from api.http.waiting import asked_wait
from api.jobs.schema import JobRequest
from api.openai.endpoints import OPENAI_ENDPOINTS
from broker.models import Model
from jobs.endpoints import JOB_ENDPOINTS


def test_endpoints() -> None:
    check_abilities(Model("m"), "/v1/embeddings", {})
    with pytest.raises(ApiError, match="does not do"):
        check_abilities(Model("m", endpoints=("/v1/completions",)), "/v1/embeddings", {})
    assert set(SCHEMAS) == set(JOB_ENDPOINTS)
    assert {one.core.path for one in OPENAI_ENDPOINTS} <= set(JOB_ENDPOINTS)


def test_model_names() -> None:
    assert model_name("m", "d") == "m"
    assert model_name(None, "d") == "d"


@pytest.mark.parametrize(("asked", "default"), [(None, None), ("", "d"), (5, "d")])
def test_a_missing_model_is_refused(asked: object, default: str | None) -> None:
    with pytest.raises(ApiError) as refused:
        model_name(asked, default)
    assert (refused.value.status, refused.value.param) == (400, "model")


def test_idempotency_keys() -> None:
    assert idempotency_key({"headers": []}) is None
    assert idempotency_key({"headers": [(b"idempotency-key", b"k" * 255)]}) == "k" * 255


@pytest.mark.parametrize("key", [b"", b"k" * 256])
def test_a_wrong_idempotency_key_is_refused(key: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        idempotency_key({"headers": [(b"idempotency-key", key)]})
    assert (refused.value.status, refused.value.param) == (400, "Idempotency-Key")


ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "x", "temperature": "0.5", "max_tokens": "5", "stream": 1, "seed": 7.0}),
    ("/v1/completions", {"prompt_embeds": "abc"}),
    ("/v1/completions", {"prompt": [1, 2], "stop": None, "logprobs": 1, "echo": True}),
    ("/v1/completions", {"prompt": [[1], [2]], "stop": ["a"], "logit_bias": {"5": 1}}),
    ("/v1/embeddings", {"input": "x"}),
    ("/v1/embeddings", {"input": [[1, 2], [3]], "encoding_format": "base64", "dimensions": 8}),
    ("/v1/embeddings", {"messages": [{"role": "user", "content": "x"}]}),
    (
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "x"}]},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                {"role": "tool", "tool_call_id": "1"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
            "stream_options": {"include_usage": True},
            "logprobs": True,
            "top_logprobs": 3,
            "n": None,
            "whatever": object,
        },
    ),
]


@pytest.mark.parametrize(("endpoint", "body"), ACCEPTED)
def test_what_the_engine_would_take_passes(endpoint: str, body: dict[str, Any]) -> None:
    check_body(endpoint, body)


CHAT = {"messages": [{"role": "user", "content": "hi"}]}
TOO_MUCH: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/completions", {"prompt": [-1] * 50_000}, "prompt"),
    ("/v1/completions", {"prompt": [[-1]] * 2000}, "prompt"),
    ("/v1/completions", {"prompt": [[1], *[["x"] * 50_000]]}, "prompt"),
    ("/v1/completions", {"prompt": ["x"] * 50_000}, "prompt"),
    ("/v1/completions", {"prompt": [[1]] * 50_000}, "prompt"),
    ("/v1/embeddings", {"input": ["x"] * 50_000}, "input"),
    ("/v1/embeddings", {"messages": [{}] * 50_000}, "messages"),
    ("/v1/chat/completions", {"messages": [{}] * 50_000}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user"}] * 50_000}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [1] * 50_000}]}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{}] * 50_000}]}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "tool_calls": [1] * 50_000}]}, "messages"),
    ("/v1/chat/completions", CHAT | {"tools": [{}] * 50_000}, "tools"),
    ("/v1/chat/completions", CHAT | {"stop": [1] * 50_000}, "stop"),
    ("/v1/chat/completions", CHAT | {"stop_token_ids": ["x"] * 50_000}, "stop_token_ids"),
    (
        "/v1/chat/completions",
        CHAT | {"logit_bias": dict.fromkeys(map(str, range(50_000)), "x")},
        "logit_bias",
    ),
]


@pytest.mark.parametrize(("endpoint", "body", "param"), TOO_MUCH)
def test_a_wrong_body_costs_one_error(endpoint: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError):  # what a first call caches is not counted
        check_body(endpoint, body)
    tracemalloc.start()
    try:
        with pytest.raises(ApiError) as refused:
            check_body(endpoint, body)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (refused.value.status, refused.value.param) == (400, param)
    assert most < 4_000_000  # an error of each item would take more


@pytest.mark.parametrize(
    ("endpoint", "body", "words"),
    [
        ("/v1/completions", {"prompt": [1, -1]}, "prompt.* greater than or equal to 0"),
        ("/v1/completions", {"prompt": ["x"] * 3000}, "prompt.* at most 2048 items"),
        ("/v1/completions", {"prompt": {}}, "prompt.* valid string"),
        ("/v1/embeddings", {"input": ["x"] * 3000}, "input.* at most 2048 inputs"),
        ("/v1/chat/completions", {"messages": [{"role": "user"}] * 3000}, "messages: .* at most 2048 items"),
        ("/v1/chat/completions", {"messages": [{"content": [1]}]}, "messages.0.role: Field required"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": ["x"] * 3000}]},
            "messages.0.content.* at most 2048 items",
        ),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [1]}]}, "messages.0.content.*0"),
        (
            "/v1/chat/completions",
            CHAT | {"logit_bias": dict.fromkeys(map(str, range(3000)), 1)},
            "logit_bias: .* at most 1024 items, not 3000",
        ),
    ],
)
def test_the_error_says_which_item_and_why(endpoint: str, body: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError) as refused:
        check_body(endpoint, body)
    assert re.match(words, refused.value.message), refused.value.message


@pytest.mark.parametrize("size", [2049, 200_000])
def test_token_ids_are_one_prompt_of_any_length(size: int) -> None:
    check_body("/v1/completions", {"prompt": [1] * size})
    check_body("/v1/completions", {"prompt": [[1] * size] * 2})
    check_body("/v1/embeddings", {"input": [1] * size})


@pytest.mark.parametrize(
    ("asked", "streams"),
    [("false", False), ("no", False), (0, False), (None, False), ("true", True), (1, True), (True, True)],
)
def test_a_stream_is_read_as_the_engine_reads_it(asked: Any, streams: bool) -> None:
    assert check_body("/v1/chat/completions", CHAT | {"stream": asked}) is streams
    assert check_body("/v1/completions", {"prompt": "x", "stream": asked}) is streams
    assert check_body("/v1/embeddings", {"input": "x", "stream": True}) is False


def test_unknown_fields_cost_one_error() -> None:
    fields = {f"x{n}": 1 for n in range(50_000)}
    with pytest.raises(ApiError) as refused:
        validate(JobRequest, {"input": CHAT, **fields})
    assert (refused.value.param, refused.value.message) == ("x0", "x0: there is no such field")
    with pytest.raises(ApiError) as refused:
        validate(JobRequest, {"input": CHAT, "priorty": "high"})
    assert refused.value.message == "priorty: there is no such field (did you mean 'priority'?)"
    with pytest.raises(ApiError) as refused:
        validate(JobRequest, {"input": CHAT, "metadata": fields})
    assert refused.value.message == "metadata: Dictionary should have at most 16 items, not 50000"


@pytest.mark.parametrize("cursor", ["1795416551123_job_0199", "0_x"])
def test_cursors_survive(cursor: str) -> None:
    text = encode_cursor(cursor)
    assert text is not None
    assert text.replace("-", "").replace("_", "").isalnum()
    assert decode_cursor(text) == cursor


@pytest.mark.parametrize("text", ["", "!", "abc", "é", "eA", "_" * 9])
def test_other_cursors_are_refused(text: str) -> None:
    with pytest.raises(ApiError):
        decode_cursor(text)


@pytest.mark.parametrize(
    ("prefer", "query", "expected"),
    [
        (None, b"", (0.0, None)),
        (b"wait=10", b"", (10.0, "wait=10")),
        (b'respond-async, wait="7"', b"", (7.0, "wait=7")),
        (b"Wait = 5; x=1", b"", (5.0, "wait=5")),
        (b"wait=1000", b"", (300.0, "wait=300")),
        (b"wait=soon", b"", (0.0, None)),
        (b"await=5", b"", (0.0, None)),
        (b"wait=10", b"wait=2.5", (2.5, None)),
        (None, b"waiting=5", (0.0, None)),
    ],
)
def test_asked_wait(prefer: bytes | None, query: bytes, expected: tuple[float, str | None]) -> None:
    headers = [] if prefer is None else [(b"prefer", prefer)]
    assert asked_wait({"headers": headers, "query_string": query}, 300.0) == expected


@pytest.mark.parametrize("query", [b"wait=-1", b"wait=301", b"wait=x", b"wait=", b"wait=nan", b"wait=inf"])
def test_a_wrong_wait_is_refused(query: bytes) -> None:
    with pytest.raises(ApiError):
        asked_wait({"headers": [], "query_string": query}, 300.0)


@pytest.mark.parametrize(
    "text", ["0.1", "-4.9e-324", "1.7976931348623157e308", "0.1" + "3" * 90, "1e-999", "0.0"]
)
def test_floats_are_read_as_json_reads_them(text: str) -> None:
    assert parse_object(b'{"x": [%b]}' % text.encode())["x"] == [json.loads(text)]


@pytest.mark.parametrize("text", ["1e999", "-1e309", "NaN", "Infinity", "1e", "01", "1.", ".5"])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(ApiError):
        parse_object(b'{"x": [%b]}' % text.encode())
