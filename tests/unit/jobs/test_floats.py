from __future__ import annotations

import json

import msgspec
import pytest

from jobs.floats import read_float

_decode = msgspec.json.Decoder(float_hook=read_float).decode


@pytest.mark.parametrize(
    "text", ["0.1", "-4.9e-324", "1.7976931348623157e308", "0.1" + "3" * 90, "1e-999", "0.0"]
)
def test_floats_are_read_as_json_reads_them(text: str) -> None:
    assert _decode(b"[%b]" % text.encode()) == [json.loads(text)]


@pytest.mark.parametrize("text", ["1e999", "-1e309"])
def test_one_beyond_a_float_is_refused(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        _decode(b"[%b]" % text.encode())
