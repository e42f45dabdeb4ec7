"""Stored chat completions: whether a request asks for one, and its metadata."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from api.admission.schema import at_most
from api.http.errors import validation_error
from jobs.endpoints import CHAT

_PAIRS = 16

Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=_PAIRS),
    at_most(_PAIRS),
]
"""Pairs of a client's own, within OpenAI's limits."""

_metadata = TypeAdapter(Metadata | None)


def is_listed(endpoint: str, request: dict[str, Any]) -> bool:
    """Return whether a request asks to be listed as a stored chat completion."""
    return endpoint == CHAT and request.get("store") is True


def metadata_of(request: dict[str, Any]) -> dict[str, str]:
    """Return the metadata of a request that is listed.

    Raises:
        ApiError: 400, they are not pairs of short texts, or too many.
    """
    try:
        return _metadata.validate_python(request.get("metadata")) or {}
    except ValidationError as error:
        found = [{**one, "loc": ("metadata", *one["loc"])} for one in error.errors(include_url=False)]
        raise validation_error(found) from None
