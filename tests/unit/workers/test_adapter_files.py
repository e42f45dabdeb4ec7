"""The folder of one worker's copies of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest

from storage.local import LocalStorage
from workers.adapters import files as module
from workers.adapters.files import AdapterFiles


def files_of(root: Path) -> AdapterFiles:
    return AdapterFiles(lambda: LocalStorage(root / "none"), root, 4, frozenset)


def folders(root: Path) -> list[Path]:
    return [one for one in root.glob("worker-*") if one.is_dir()]


def test_a_worker_that_starts_at_the_same_moment_takes_no_folder_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, others = module._locked, list[AdapterFiles]()

    def start_another_first(lock: IO[bytes]) -> IO[bytes]:
        monkeypatch.setattr(module, "_locked", locked)
        others.append(files_of(tmp_path))
        return locked(lock)

    monkeypatch.setattr(module, "_locked", start_another_first)
    mine = files_of(tmp_path)
    assert len(folders(tmp_path)) == 2
    for one in (mine, *others):
        one.close(died=False)
    assert folders(tmp_path) == []


def test_folders_of_workers_that_are_no_more_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    living, killed = files_of(tmp_path), files_of(tmp_path)
    killed._lock.close()
    assert len(folders(tmp_path)) == 2
    last = files_of(tmp_path)
    assert len(folders(tmp_path)) == 2
    for one in (living, last):
        one.close(died=False)
    assert folders(tmp_path) == []


def test_the_folder_of_a_worker_that_was_killed_while_it_noted_what_it_tries_is_removed(
    tmp_path: Path,
) -> None:
    killed = files_of(tmp_path)
    (folder,) = folders(tmp_path)
    (folder / "tried").touch()
    killed._lock.close()
    last = files_of(tmp_path)
    assert folder not in folders(tmp_path)
    last.close(died=False)
