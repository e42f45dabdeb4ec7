"""A request's priority in its body, in place of the client's."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engines.priority import with_priority

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["priority", "prompt", "priorities"]) | st.text(max_size=8)
BODIES = st.dictionaries(NAMES, JSON, max_size=5)


@given(BODIES, st.booleans(), st.sampled_from(["", " ", "\n"]), st.sampled_from([0, 40, -40, None]))
def test_our_priority_is_the_only_one(
    body: dict[str, object], ascii_only: bool, space: str, ours: int | None
) -> None:
    raw = f"{space}{json.dumps(body, ensure_ascii=ascii_only)}{space}".encode("utf-8", "surrogatepass")
    expected = {name: value for name, value in body.items() if name != "priority"}
    if ours is not None:
        expected["priority"] = ours
    assert json.loads(with_priority(raw, ours)) == expected


def test_a_name_in_escapes_is_the_clients_priority_too() -> None:
    raw = b'{"prompt":"a prompt of some length","pri\\u006frity":-1000}'
    assert json.loads(with_priority(raw, None)) == {"prompt": "a prompt of some length"}
    assert json.loads(with_priority(raw, 40))["priority"] == 40


@pytest.mark.parametrize("raw", [b"", b"{", b"[1, 2]", b'"priority"', b'{"priority": }', b"{}}", b"\xff{}"])
def test_a_body_that_is_no_object_stays_as_it_is(raw: bytes) -> None:
    assert with_priority(raw, 40) == raw


@pytest.mark.parametrize(
    "raw", [b'{"prompt":"a prompt of some length",}', b'{"prompt":"a prompt that never ends}']
)
def test_a_wrong_body_does_not_become_a_right_one(raw: bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(with_priority(raw, 40))


def test_numbers_and_order_are_kept() -> None:
    raw = b'{"temperature":0.1000,"seed":123456789012345678901,"prompt":"a prompt of some length"}'
    assert with_priority(raw, 7) == raw[:-1] + b',"priority":7}'
