"""A text that does not match its pattern is answered in words, wherever the pattern is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from api.http.errors import validation_error
from jobs.names import NAME, WORDS, in_words
from penstock.server.settings import fields
from tools.openapi_document import openapi


def patterns(node: Any) -> Iterator[str]:
    """Find the patterns of an OpenAPI document."""
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from patterns(child)
    if isinstance(node, dict) and node.get("type") == "string" and "pattern" in node:
        yield node["pattern"]


def test_each_pattern_of_a_setting_or_a_request_can_be_said_in_words() -> None:
    own = {"^[1-9][0-9]*[smhd]$"}  # of a batch's completion_window, which no model checks
    assert set(patterns(openapi())) - own <= WORDS.keys()
    found = {getattr(one, "pattern", None) for field in fields().values() for one in field.metadata} - {None}
    assert len(found) > 5
    assert found <= WORDS.keys()


@pytest.mark.parametrize("text", ["", "a b", "ä", "x" * 65])
def test_a_wrong_name_is_answered_in_words(text: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(dict[str, Annotated[str, Field(pattern=NAME)]]).validate_python({"tenant": text})
    error = validation_error(refused.value.errors())
    assert error.message == "tenant: use 1 to 64 characters: letters (a-z, A-Z), digits, '-' and '_'"
    assert not re.search(r"pattern|\^|\\", json.dumps([in_words(one) for one in refused.value.errors()]))
