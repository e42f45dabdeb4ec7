"""Folders of processes: each keeps its own, and those of the dead go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workers import own_folders
from workers.own_folders import make_own, remove_left

PREFIX = "worker-"


def test_a_folder_that_is_removed_as_it_is_locked_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = own_folders._locked

    def before_another(folder: Path) -> int:
        monkeypatch.setattr(own_folders, "_locked", locked)
        lock = locked(folder)
        (folder / "lock").unlink()
        folder.rmdir()
        return lock

    monkeypatch.setattr(own_folders, "_locked", before_another)
    mine, lock = make_own(tmp_path, PREFIX)
    assert list(tmp_path.iterdir()) == [mine]
    os.close(lock)


@pytest.mark.parametrize("left", [[], ["lock"], ["lock.new"], ["copy"]])
def test_a_process_that_was_killed_while_it_made_or_removed_its_folder_leaves_none(
    tmp_path: Path, left: list[str]
) -> None:
    folder = tmp_path / f"{PREFIX}0123abcd"
    folder.mkdir()
    for name in left:
        (folder / name).touch()
    remove_left(tmp_path, PREFIX)
    assert list(tmp_path.iterdir()) == []


def test_what_a_name_leads_to_elsewhere_is_left_alone(tmp_path: Path) -> None:
    """In a temporary folder everybody can make such names."""
    place, outside = tmp_path / "place", tmp_path / "outside"
    for one in (place, outside, place / f"{PREFIX}2"):
        one.mkdir()
    (place / f"{PREFIX}1").symlink_to(outside)
    (place / f"{PREFIX}2" / "lock").symlink_to(outside / "made")
    (place / f"{PREFIX}3").touch()
    remove_left(place, PREFIX)
    assert list(outside.iterdir()) == []


def test_what_another_user_owns_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / f"{PREFIX}0123abcd"
    folder.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    remove_left(tmp_path, PREFIX)
    assert list(folder.iterdir()) == []
