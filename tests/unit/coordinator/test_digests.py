from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

import coordinator.digests as module
from coordinator.digests import Digests, same_id, tag_of
from storage import StorageUnavailableError


def groups(digests: Digests) -> list[list[int]]:
    """Return the tags of every id that was added more than once."""
    found = []
    for records in digests.partitions():
        start = 0
        for end in range(1, len(records) + 1):
            if end == len(records) or not same_id(records[start], records[end]):
                if end - start > 1:
                    found.append([tag_of(record) for record in records[start:end]])
                start = end
    return sorted(found)


def test_equal_ids_stand_together_in_memory_and_on_disk(monkeypatch) -> None:
    for spill in (1 << 20, 24 * 7):  # the second writes every seven records
        monkeypatch.setattr(module, "_SPILL_BYTES", spill)
        digests = Digests()
        for n in range(5000):
            digests.add(f"id-{n}", n)
        digests.add("id-4999", 7)
        digests.add("id-3", 9000)
        digests.add("id-3", 8000)
        assert groups(digests) == [[3, 8000, 9000], [7, 4999]]
        digests.close()


def test_a_temporary_file_that_cannot_be_made_is_storage_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_SPILL_BYTES", 24)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    digests = Digests()
    with pytest.raises(StorageUnavailableError, match="temporary file"):
        digests.add("a", 1)
    digests.close()


def test_ids_of_any_letters() -> None:
    digests = Digests()
    for tag, ident in enumerate(["ä", "a\u0308", "", "\udc80", "日本"]):
        digests.add(ident, tag)
    assert groups(digests) == []
    digests.close()
