from __future__ import annotations

import json
from typing import Any

import pytest

from api.admission.context_length import check_length
from api.admission.media import check_media
from api.http.errors import ApiError
from api.settings import ApiSettings
from broker.models import Model
from jobs.capabilities import Capabilities
from tests.pictures import data_uri, image_part, picture

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RED = data_uri(picture())
MODEL = Model("m", max_model_len=10, max_token_bytes=4, max_output_tokens=10)
COUNTS = Model("m", max_model_len=100, max_token_bytes=10, prompt_overhead=8)


def endpoint_of(body: dict[str, Any]) -> str:
    return CHAT if "messages" in body else EMBEDDINGS if "input" in body else COMPLETIONS


def length(body: dict[str, Any], model: Model = MODEL) -> str | None:
    size = len(json.dumps(body, ensure_ascii=False).encode())
    return check_length(model, endpoint_of(body), body, size, check_media(ApiSettings(), body))


def says(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


FITS: list[dict[str, Any]] = [
    {"prompt": "x" * 36},
    {"prompt": ["x" * 36, "y" * 36]},
    {"prompt": [1] * 9},
    {"prompt": [[1] * 9, [2] * 9]},
    {"prompt": "é" * 18},
    {"prompt": "x" * 41, "truncate_prompt_tokens": 5},
    {"messages": [{"role": "user", "content": "x" * 18}] * 2},
    says([image_part("http://example.org/" + "x" * 100)]),
    {"input": ["x" * 40] * 5},
    {"input": [1] * 10},
    {"prompt": None, "messages": None},
    {"prompt": "x", "max_tokens": 10},
    says("x") | {"max_tokens": 11, "max_completion_tokens": 10},
    {"prompt": "x", "max_completion_tokens": 11},
    {"input": "x", "max_tokens": 11},
]
TOO_LONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "x" * 37}, "prompt"),
    ({"prompt": "é" * 19}, "prompt"),
    ({"prompt": ["x", "x" * 37]}, "prompt"),
    ({"prompt": [1] * 10}, "prompt"),
    ({"prompt": [[1], [1] * 10]}, "prompt"),
    ({"messages": [{"role": "user", "content": "x" * 19}] * 2}, "messages"),
    (says([{"type": "text", "text": "x" * 37}]), "messages"),
    ({"input": ["x", "x" * 41]}, "input"),
    ({"input": [1] * 11}, "input"),
    ({"prompt": "x", "max_tokens": 11}, "max_tokens"),
    (says("x") | {"max_tokens": 1, "max_completion_tokens": 11}, "max_completion_tokens"),
]


@pytest.mark.parametrize("body", FITS)
def test_what_may_fit_passes(body: dict[str, Any]) -> None:
    assert length(body) is None


@pytest.mark.parametrize(("body", "param"), TOO_LONG)
def test_what_cannot_fit_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        length(body)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x" * 91}, None),
        ({"prompt": "x" * 92}, "prompt"),
        ({"prompt": ["x" * 91] * 20}, None),
        ({"prompt": ["x" * 91, "x" * 92]}, "prompt"),
        ({"prompt": [[1] * 99, [1] * 99]}, None),
        ({"input": "x" * 92}, None),
        ({"input": "x" * 93}, "input"),
        (says("x" * 44), None),  # 91 bytes of JSON
        (says("x" * 45), "messages"),
        (says("x") | {"tools": [{"a": 1}] * 20}, "messages"),
        (says([{"type": "text", "text": "x" * 92}]), "messages"),
        (says([{"type": "text", "text": "x" * 92}, image_part(RED)]), None),
        ({"prompt": "x" * 500, "truncate_prompt_tokens": -1}, None),
    ],
)
def test_in_doubt_the_tokens_are_counted(body: dict[str, Any], param: str | None) -> None:
    assert length(body, COUNTS) == param


SEES = Model(
    "m", max_model_len=400, max_token_bytes=10, prompt_overhead=8, capabilities=Capabilities(image_tokens=50)
)


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([image_part(RED)] * 2, None),
        ([image_part(RED)] * 7, "messages"),
        ([{"type": "text", "text": "x" * 300}, image_part(RED)], "messages"),
        ([image_part(RED)] * 6 + [image_part("http://example.org/a.png")], None),
        ([image_part(RED)] * 6 + [image_part("file-" + "0" * 32)], None),
        ([image_part(RED)] * 6 + [{"type": "input_audio", "input_audio": {"data": "AAAA"}}], None),
    ],
)
def test_an_image_counts_its_tokens_and_not_its_bytes(parts: list[dict[str, Any]], param: str | None) -> None:
    """A worker counts, if the most that images take may be too much. It fetches none for that."""
    assert length(says(parts), SEES) == param


def test_text_beside_an_image_can_be_certainly_too_long() -> None:
    with pytest.raises(ApiError, match="context"):
        length(says([{"type": "text", "text": "x" * 4001}, image_part(RED)]), SEES)


def test_without_limits_everything_passes() -> None:
    body = {"prompt": "x" * 1000, "max_tokens": 10**9}
    assert length(body, Model("m")) is None
    assert length(body, Model("m", max_model_len=10)) is None


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/tokenize", {"prompt": "x" * 1000}),
        ("/tokenize", {"messages": [{"role": "user", "content": "x" * 1000}]}),
        ("/detokenize", {"tokens": [1] * 1000}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "x" * 1000}]}),
        ("/v1/classify", {"input": [[1] * 10, "x" * 40]}),
        ("/v1/rerank", {"query": "q" * 40, "documents": ["d" * 40] * 9}),
        ("/v1/rerank", {"query": "q", "documents": ["d" * 400], "max_tokens_per_doc": 5}),
        ("/v1/rerank", {"query": "q", "documents": [{"content": [{"type": "text", "text": "d" * 400}]}]}),
        ("/v1/score", {"text_1": "q" * 400, "text_2": "d", "truncate_prompt_tokens": 9}),
    ],
)
def test_what_may_fit_into_a_model_that_pools_passes(endpoint: str, body: dict[str, Any]) -> None:
    for model in (MODEL, Model("m", max_model_len=10, max_token_bytes=4, prompt_overhead=2)):
        counted = check_length(model, endpoint, body, len(json.dumps(body)))
        assert counted in ({None, "input"} if endpoint == "/v1/classify" else {None})


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        ("/v1/classify", {"input": [1] * 11}, "input"),
        ("/v1/pooling", {"input": ["x", "x" * 41]}, "input"),
        ("/v1/rerank", {"query": "q", "documents": ["d", "d" * 41]}, "documents"),
        ("/v1/rerank", {"query": "q" * 41, "documents": ["d"]}, "query"),
        ("/v1/score", {"queries": ["q"], "items": "d" * 41}, "items"),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "system": "s" * 40}, "messages"),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x" * 37}]}, "messages"),
    ],
)
def test_one_text_that_cannot_fit_is_refused(endpoint: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_length(MODEL, endpoint, body, len(json.dumps(body)))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)


def test_anthropics_prompt_is_counted_with_its_system_text() -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "system": [{"type": "text", "text": "s" * 92}]}
    assert check_length(COUNTS, "/v1/messages", body, len(json.dumps(body))) == "messages"
