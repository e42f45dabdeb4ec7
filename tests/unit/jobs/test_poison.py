"""Kinds of requests: alike whatever the texts, and different where an engine sees a difference."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from jobs.endpoints import CHAT, COMPLETIONS
from jobs.poison import kind_of

SAY = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}


def form(schema: Any, name: str = "x") -> dict[str, Any]:
    return {
        **SAY,
        "response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": schema}},
    }


def digest(request: dict[str, Any], endpoint: str = CHAT, model: str = "m") -> str | None:
    kind = kind_of(endpoint, model, request)
    return None if kind is None else kind.digest


@pytest.mark.parametrize(
    "request_",
    [SAY, {**SAY, "temperature": 0.5, "top_p": 0.1, "stream": True, "user": "u"}, {**SAY, "top_k": None}, {}],
)
def test_what_everybody_sends_is_of_no_kind(request_: dict[str, Any]) -> None:
    assert kind_of(CHAT, "m", request_) is None


SAME = [
    ({**SAY, "top_k": 5}, {"messages": [], "top_k": 6}),
    (
        form({"type": "object", "properties": {"a": {"type": "string"}}}),
        form({"type": "object", "properties": {"secret name": {"type": "string"}}}, "other"),
    ),
    ({**SAY, "structured_outputs": {"regex": "a+"}}, {**SAY, "structured_outputs": {"regex": "b{3}"}}),
    ({**SAY, "stop": ["a", "b"]}, {**SAY, "stop": ["c"]}),
    ({**SAY, "logit_bias": {"5": 1}}, {**SAY, "logit_bias": {"7": 1}}),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_texts_and_chosen_names_make_no_difference(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert digest(one) == digest(other) is not None


DIFFERENT = [
    ({**SAY, "top_k": 5}, {**SAY, "top_k": 10**9}),
    ({**SAY, "top_k": 5}, {**SAY, "top_k": -5}),
    ({**SAY, "top_k": 5}, {**SAY, "top_k": "5"}),
    ({**SAY, "top_k": 5}, {**SAY, "top_k": 5, "min_p": 0.1}),
    ({**SAY, "min_p": 0.1}, {**SAY, "min_p": float("nan")}),
    (form({"type": "array", "minItems": 2}), form({"type": "array", "minItems": 10**12})),
    (form({"type": "array"}), form({"type": "string"})),
    ({**SAY, "structured_outputs": {"regex": "a"}}, {**SAY, "structured_outputs": {"grammar": "a"}}),
    ({**SAY, "stop": ["a"]}, {**SAY, "stop": ["a"] * 1000}),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_an_engine_sees_makes_another_kind(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert digest(one) != digest(other)


def test_the_endpoint_and_the_model_count_and_the_order_does_not() -> None:
    body = {**SAY, "top_k": 5, "seed": 1}
    assert digest(body) != digest(body, COMPLETIONS)
    assert digest(body) != digest(body, model="other")
    assert digest(body) == digest(dict(reversed(body.items())))
    kind = kind_of(CHAT, "m", body)
    assert kind is not None
    assert kind.members == ("seed", "top_k")


def test_any_json_has_a_kind() -> None:
    deep: Any = 10**400
    for _ in range(200):
        deep = [deep, {"a": deep if isinstance(deep, int) else None}]
    odd: list[Any] = [deep, 1e308, float("inf"), [None, True, {"a": []}], {}, "\ud800"]
    for value in odd:
        found = kind_of(CHAT, "m", {**SAY, "odd": value})
        assert found is not None
        assert msgspec.json.encode(found)
