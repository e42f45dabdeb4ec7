"""Schemas whose grammars would not fit into memory."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.abilities import asks, fatal, lack
from jobs.capabilities import Capabilities
from jobs.endpoints import CHAT, EMBEDDINGS
from jobs.grammars import MOST_ITEMS, countless

MANY = {"type": "array", "maxItems": MOST_ITEMS + 1}
FEW = {"type": "array", "maxItems": MOST_ITEMS}
DEEP = {"anyOf": [{"type": "string"}, {"properties": {"a": {"items": MANY}}}]}


def tool(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema, **more}}


FOUND: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": DEEP}}}, "response_format"),
    ({"response_format": {"type": "structural_tag", "structures": [{"schema": DEEP}]}}, "response_format"),
    ({"structured_outputs": {"json": DEEP}}, "structured_outputs"),
    ({"structured_outputs": {"json": json.dumps(DEEP)}}, "structured_outputs"),
    ({"text": {"format": {"schema": {"minItems": 1e12}}}}, "text"),
    ({"output_config": {"format": {"schema": {"contains": {}, "minContains": 2**70}}}}, "output_config"),
    ({"tools": [tool(DEEP)], "tool_choice": "required"}, "tools"),
    ({"tools": [{"name": "f", "input_schema": DEEP}], "tool_choice": {"type": "any"}}, "tools"),
    ({"tools": [tool(FEW), tool(DEEP, strict=True)]}, "tools"),
    ({"tools": [{"type": "function", "name": "f", "parameters": DEEP, "strict": True}]}, "tools"),
]


@pytest.mark.parametrize(("request_", "param"), FOUND)
def test_an_array_of_too_many_items_is_found_anywhere(request_: dict[str, Any], param: str) -> None:
    found = countless(request_)
    assert found is not None
    assert found[0] == param
    assert asks(json.dumps(request_).encode())
    for check in (lack, fatal):
        told = check(Capabilities(), CHAT, request_)
        assert told is not None
        assert (told.param, found[1] in told.sentence) == (param, True)
        assert check(Capabilities(), EMBEDDINGS, request_) is None


@pytest.mark.parametrize(
    "request_",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": FEW}}},
        {"response_format": {"json_schema": {"schema": {"properties": {"minItems": {"type": "integer"}}}}}},
        {"structured_outputs": {"json": "{no json"}},
        {"structured_outputs": {"choice": ["minItems"]}},
        {"tools": [tool(DEEP)]},
        {"tools": [tool(DEEP)], "tool_choice": "auto"},
        {"tools": [tool(DEEP)], "tool_choice": {"type": "none"}},
        {"tools": "odd", "text": 5, "response_format": [1]},
        {"messages": [{"role": "user", "content": "minItems: 99999999"}]},
    ],
)
def test_what_costs_little_is_left_to_the_engine(request_: dict[str, Any]) -> None:
    assert countless(request_) is None
