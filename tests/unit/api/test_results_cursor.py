"""A cursor of results: what it says comes back; what it never said is refused."""

from __future__ import annotations

import base64

import pytest

from api.batches.cursor import Position
from api.http.errors import ApiError


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "position",
    [
        Position(),
        Position(3, {3: (2, 17), 5: (-1, 0)}),
        Position(file=(0, 12_345)),
        Position(file=(2, 0)),
    ],
)
def test_there_and_back(position: Position) -> None:
    assert Position.decode(position.encode()) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"f": [0, Infinity]}',
        '{"f": [0, -1]}',
        '{"f": [-1, 0]}',
        '{"f": [3, 0]}',
        '{"f": [0, 1e9]}',
        '{"f": [0, NaN]}',
        '{"f": [0, "7"]}',
        '{"f": 7}',
        '{"f": [0, 9999999999999999999]}',
        '{"b": -1, "a": {}}',
        '{"b": Infinity, "a": {}}',
        '{"b": 0, "a": {"0": [-2, 0]}}',
        '{"b": 0, "a": {"0": [0, -1]}}',
        '{"b": 0, "a": {"-1": [0, 0]}}',
        '{"b": 0, "a": {"0": [0]}}',
        "[" * 100_000,
    ],
)
def test_others_are_refused(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        Position.decode(cursor(text))
    assert (refused.value.status, refused.value.param) == (400, "after")


@pytest.mark.parametrize("text", ["nonsense", "\xe4", "A"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ApiError):
        Position.decode(text)
