"""Which errors of vLLM's are the request's own: those of a form that the answer must have."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from jobs.endpoints import CHAT
from workers.engines.base import EngineRequest, Final
from workers.engines.vllm.refusals import settled

FAILED = Final(500, b'{"error":{"message":"Internal server error"}}', None)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
STRICT = {"type": "function", "function": {"name": "look", "strict": True}}


def status(**body: Any) -> int:
    request = EngineRequest("r", CHAT, msgspec.json.encode({"model": "m", "messages": [], **body}))
    return settled(request, FAILED).status


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": [TOOL], "tool_choice": {"type": "auto"}},
        {"tools": [TOOL], "tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"text": {"format": {"type": "text"}}},
        {"text": {"verbosity": "low"}},
        {"output_config": {"effort": "low"}},
    ],
)
def test_an_error_of_the_engine_stays_its_own(body: dict[str, Any]) -> None:
    assert status(**body) == 500


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}},
        {"tools": [TOOL], "tool_choice": {"type": "any"}},
        {"tools": [STRICT]},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": "a"}},
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}},
        {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
    ],
)
def test_one_of_a_form_is_the_requests(body: dict[str, Any]) -> None:
    assert status(**body) == 400
