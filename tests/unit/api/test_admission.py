"""What is checked at the edge, and what is left to the engine."""

from __future__ import annotations

from typing import Any

import pytest

from api.admission.models import check_endpoint, named_model
from api.admission.schema import SCHEMAS, check_body
from api.http.errors import ApiError
from api.http.waiting import asked_wait
from api.jobs.view import decode_cursor, encode_cursor
from broker.catalogue import Model
from jobs.endpoints import JOB_ENDPOINTS


def test_endpoints() -> None:
    check_endpoint(Model("m"), "/v1/embeddings")
    with pytest.raises(ApiError, match="does not do"):
        check_endpoint(Model("m", endpoints=("/v1/completions",)), "/v1/embeddings")
    assert named_model({"model": "m"}) == "m"
    assert set(SCHEMAS) == set(JOB_ENDPOINTS)


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
