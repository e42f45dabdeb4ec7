"""The folder of one worker's copies of adapters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.local import LocalStorage
from workers import own_folders
from workers.adapters.files import AdapterFiles
from workers.engines.base import AdapterBrokenError

VERSION = f"{'0' * 32}-{'1' * 8}"


def files_of(root: Path) -> AdapterFiles:
    return AdapterFiles(lambda: LocalStorage(root / "none"), root, 4, frozenset)


def on_a_full_disk(code: str, root: Path) -> int:
    """Run a worker's process that can make files, but not write to them; return its exit code. ``files`` are its copies."""
    script = f"""
import os, resource, signal
from pathlib import Path
from tests.unit.workers.test_adapter_files import files_of

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
files = files_of(Path({str(root)!r}))
(files._own / "copy").mkdir()
{code}
"""
    return subprocess.run([sys.executable, "-c", script], check=False).returncode


def folders(root: Path) -> list[Path]:
    return [one for one in root.glob("worker-*") if one.is_dir()]


def test_a_worker_that_starts_at_the_same_moment_takes_no_folder_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, others = own_folders._locked, list[AdapterFiles]()

    def start_another_first(folder: Path) -> int:
        monkeypatch.setattr(own_folders, "_locked", locked)
        others.append(files_of(tmp_path))
        assert not folder.exists()
        return locked(folder)

    monkeypatch.setattr(own_folders, "_locked", start_another_first)
    mine = files_of(tmp_path)
    assert len(folders(tmp_path)) == 2
    for one in (mine, *others):
        one.close(died=False)
    assert folders(tmp_path) == []


def test_folders_of_workers_that_are_no_more_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    living, killed = files_of(tmp_path), files_of(tmp_path)
    os.close(killed._lock)
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
    (folder / "tried-").touch()
    os.close(killed._lock)
    last = files_of(tmp_path)
    assert folder not in folders(tmp_path)
    last.close(died=False)


def test_a_full_disk_keeps_no_copies_and_loses_no_deaths(tmp_path: Path) -> None:
    """Of two workers that end while they load a version; the next one starts before there is room."""
    dies = f"files.begin_trial(Path({VERSION!r})); os.kill(os.getpid(), 9)"
    for _ in range(2):
        assert on_a_full_disk(dies, tmp_path) == -9
        assert len(folders(tmp_path)) == 1
    assert on_a_full_disk("files.close(died=False)", tmp_path) == 0
    assert folders(tmp_path) == []
    last = files_of(tmp_path)
    with pytest.raises(AdapterBrokenError, match="two workers ended"):
        last.begin_trial(Path(VERSION))
    last.begin_trial(Path("another-version"))
    last.acquit(Path(VERSION))
    last.begin_trial(Path(VERSION))
    last.close(died=False)
