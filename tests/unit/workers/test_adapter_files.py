"""The folder of one worker's copies of adapters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from storage.local import LocalStorage
from workers.adapters import files as module
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
    locked, others = module._locked, list[AdapterFiles]()

    def start_another_first(lock: Path) -> IO[bytes]:
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


def test_a_full_disk_keeps_no_copies_and_loses_no_deaths(tmp_path: Path) -> None:
    """Of two workers that end while they load a version; the next one starts before there is room."""
    for _ in range(2):
        assert (
            on_a_full_disk(f"files.begin_trial(Path({VERSION!r})); os.kill(os.getpid(), 9)", tmp_path) == -9
        )
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


@pytest.mark.parametrize("left", [[], ["lock.new"], ["copy"]])
def test_a_worker_that_was_killed_while_it_made_or_removed_its_folder_leaves_none(
    tmp_path: Path, left: list[str]
) -> None:
    folder = tmp_path / "worker-1-0123abcd"
    folder.mkdir()
    for name in left:
        (folder / name).touch()
    files_of(tmp_path).close(died=False)
    assert folders(tmp_path) == []
