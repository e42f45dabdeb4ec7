"""Counting a JSON text's items and levels gives what a parser would find."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.admission.schema import EmbeddingRequest
from api.http import shape
from api.http.body import parse_object, validate
from api.http.errors import ApiError
from api.http.shape import CONTAINER_ITEMS, MAX_DEPTH, MAX_DIGITS, check_shape
from api.settings import ApiSettings

_TEXT = st.text(st.sampled_from('ab"\\[]{},:\n é😀'), max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_TEXT, inner, max_size=5),
    max_leaves=30,
)


def _items(value: Any) -> int:
    """Count as the module does: commas, strings, and opening brackets several times."""
    if not isinstance(value, list | dict):
        return int(isinstance(value, str))
    inner = [*value, *value.values()] if isinstance(value, dict) else value
    return CONTAINER_ITEMS + max(0, len(value) - 1) + sum(map(_items, inner))


def _depth(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)


@given(st.lists(_JSON) | st.dictionaries(_TEXT, _JSON), st.booleans(), st.integers(2, 40))
def test_the_count_is_exact_wherever_the_text_is_cut(value: Any, ascii_only: bool, chunk: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    items = _items(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shape, "_CHUNK", chunk)
        patch.setattr(shape, "_FEW_BYTES", 0)
        patch.setattr(shape, "MAX_DEPTH", _depth(value))
        check_shape(text, items)
        with pytest.raises(ApiError, match="items"):
            check_shape(text, items - 1)
        patch.setattr(shape, "MAX_DEPTH", _depth(value) - 1)
        with pytest.raises(ApiError, match="nested"):
            check_shape(text, items)


@pytest.mark.parametrize("inputs", [1, 1000, 2048])
def test_as_many_token_ids_as_openai_takes(inputs: int) -> None:
    """300,000 in one call."""
    ids = "[" + ",".join(["100257"] * (300_000 // inputs)) + "]"
    body = f'{{"model":"m","input":[{",".join([ids] * inputs)}]}}'.encode()
    check_shape(body, ApiSettings.model_fields["max_body_items"].default)
    fields = parse_object(body)
    assert len(validate(EmbeddingRequest, fields).input) == inputs


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_the_depth_is_bounded_at_any_size(opening: bytes) -> None:
    check_shape(opening * MAX_DEPTH, 10**6)
    with pytest.raises(ApiError, match="nested"):
        check_shape(opening * (MAX_DEPTH + 1), 10**6)
    with pytest.raises(ApiError, match="nested"):
        check_shape(b'{"a":[' + b"{}," * 100_000 + opening * MAX_DEPTH, 10**6)


def test_marks_in_strings_do_not_count() -> None:
    for inside in (b"[" * 1000, b"," * 1000, b'\\"[' * 1000, b"\\\\" * 1000, b"\\u005b" * 1000):
        check_shape(b'{"a": "' + inside * 10 + b'"}', CONTAINER_ITEMS + 2)
    with pytest.raises(ApiError, match="items"):
        check_shape(b'{"a": "\\\\", "b": [1, 2]}', 20)
    check_shape(b'{"a": "\\\\", "b": [1, 2]}', 21)


class _Watched(bytes):
    """A text that counts the bytes which are taken out of it, and those that a search passes."""

    taken = 0
    searched = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        self.taken += len(found) if isinstance(place, slice) else 1
        return found

    def find(self, part: Any, start: Any = None, end: Any = None) -> int:
        place = super().find(part, start, end)
        self.searched += (len(self) if place < 0 else place + 1) - (start or 0)
        return place


@pytest.mark.parametrize("inside", [b"A" * 10, b"one\\ntwo ", b"[{,123456"])
def test_a_long_string_is_skipped(inside: bytes) -> None:
    text = _Watched(b'{"a": ["' + inside * 100_000 + b'", "b", {"c": 1}]}')
    assert check_shape(text, 10**6) == 3 * CONTAINER_ITEMS + 2 + 4
    assert text.taken < 5 * shape._CHUNK < len(text) // 10


@pytest.mark.parametrize("end", [b'\\""}', b"\\" * 500_000 + b'"}', b"", b'"}'])
def test_no_byte_of_a_long_string_is_searched_twice(end: bytes) -> None:
    """The quote ahead may belong to the string, and then each piece before it is looked at."""
    text = _Watched(b'{"a":"' + b"x" * 500_000 + end)
    assert check_shape(text, 10**6) in {CONTAINER_ITEMS + 1, CONTAINER_ITEMS + 2}
    assert text.searched <= len(text)


@pytest.mark.parametrize("number", [b"%b", b"-%b", b"1.%b", b"0.%be-7"])
def test_the_digits_of_a_number_are_bounded(number: bytes) -> None:
    few = b'{"a": ["' + b"1" * 70_000 + b'", ' + number % (b"9" * (MAX_DIGITS - 4)) + b", 1]}"
    check_shape(few, 10**6)
    many = few.replace(b"9", b"99", 10)
    with pytest.raises(ApiError, match="digits"):
        check_shape(many, 10**6)


@pytest.mark.parametrize("text", [b"", b"\\", b"\\" * 300_000, b'"', b"]" * 300_000, b"}" * 200 + b"[" * 200])
def test_what_is_not_json_is_left_to_the_parser(text: bytes) -> None:
    check_shape(text, 10**6)
