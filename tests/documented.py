"""Whether what the api sends is what the OpenAPI document says."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def assert_documented(model: type[BaseModel], *values: Any) -> None:
    """Assert that each value, parsed JSON, meets the model, and has no member that the model does not name."""
    for value in values:
        assert model.model_validate(value).model_dump(mode="json", exclude_unset=True) == value
