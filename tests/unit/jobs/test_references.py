"""References to bodies in the storage."""

from __future__ import annotations

import pytest

from jobs.references import Reference
from jobs.sealing import Keyring, seal


@pytest.mark.parametrize("reference", [Reference(0, 0), Reference(9_000_000, 0), Reference(1, 12)])
def test_a_reference_is_read_as_it_was_written(reference: Reference) -> None:
    assert Reference.read(reference.encode()) == reference


def test_no_body_is_a_reference() -> None:
    ring = Keyring((("k", b"k" * 32),))
    sealed = (seal(ring, "job_" + "0" * 32, "req", b"{}", b"n" * 12, text=text) for text in (False, True))
    for body in (None, b"", b"{}", b"ref 1 2", *sealed):
        assert Reference.read(body) is None


def test_writers_and_fields_have_keys_of_their_own() -> None:
    keys = {Reference(1, w).key(job, name) for w in (0, 1) for job in "ab" for name in ("req", "result")}
    assert len(keys) == 8
