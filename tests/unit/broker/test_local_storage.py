"""The directory behind the storage Protocol: objects appear whole, durably or not at all."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from broker.settings import BrokerSettings
from storage import (
    MissingObjectError,
    ObjectInfo,
    StorageFullError,
    StorageUnavailableError,
    local_folders,
    open_storage,
)
from storage.base import BLOCK, read_all, read_lines
from storage.local import LocalStorage

pytestmark = pytest.mark.asyncio


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "files")


async def test_an_object_is_there_when_it_is_committed(storage: LocalStorage, tmp_path: Path) -> None:
    writer = await storage.writer("a/b/c")
    data = os.urandom(3 * BLOCK + 5)
    await writer.write(data[:10])
    await writer.write(data[10:])
    with pytest.raises(MissingObjectError):
        await storage.size("a/b/c")
    assert await writer.commit() == len(data)
    assert await storage.size("a/b/c") == len(data)
    assert await read_all(storage, "a/b/c") == data
    assert list((tmp_path / "files" / ".staging").iterdir()) == []


async def test_what_is_aborted_leaves_nothing(storage: LocalStorage, tmp_path: Path) -> None:
    writer = await storage.writer("x")
    await writer.write(b"half")
    await writer.abort()
    assert await storage.list("") == []
    assert list((tmp_path / "files" / ".staging").iterdir()) == []


async def test_who_is_cancelled_as_a_file_is_opened_leaves_none(
    storage: LocalStorage, tmp_path: Path
) -> None:
    begun = threading.Event()
    staged = tmp_path / "files" / ".staging"
    os.mkfifo(staged / "slow")  # opening it waits for a reader

    def slow() -> SimpleNamespace:
        begun.set()
        return SimpleNamespace(hex="slow")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.local.uuid.uuid4", slow)
        opening = asyncio.create_task(storage.writer("a/b"))
        await asyncio.to_thread(begun.wait)
        await asyncio.sleep(0.05)
        opening.cancel()
        await asyncio.sleep(0.05)
        with (staged / "slow").open("rb"), pytest.raises(asyncio.CancelledError):
            await opening
    gc.collect()  # an open file would be an error here
    assert not list(staged.iterdir())


async def test_ranges(storage: LocalStorage) -> None:
    await storage.put("x", bytes(range(100)))
    assert b"".join([piece async for piece in storage.read("x", 10, 20)]) == bytes(range(10, 20))
    assert b"".join([piece async for piece in storage.read("x", 90)]) == bytes(range(90, 100))
    assert b"".join([piece async for piece in storage.read("x", 5, 5)]) == b""
    await storage.put("empty", b"")
    assert await read_all(storage, "empty") == b""


async def test_lists_are_sorted_and_deletion_is_idempotent(storage: LocalStorage) -> None:
    for key in ("p/2", "p/1", "q/1"):
        await storage.put(key, b"x")
    assert await storage.list("p") == [ObjectInfo("p/1", 1), ObjectInfo("p/2", 1)]
    await storage.delete(["p/1", "p/2", "p/3"])
    await storage.delete(["p/1"])
    assert await storage.list("p") == []
    assert [info.key for info in await storage.list("q")] == ["q/1"]


async def test_a_later_write_takes_the_place(storage: LocalStorage) -> None:
    await storage.put("x", b"one")
    await storage.put("x", b"two")
    assert await read_all(storage, "x") == b"two"


@pytest.mark.parametrize("ending", [b"", b"\n"])
async def test_lines_with_their_offsets(storage: LocalStorage, ending: bytes) -> None:
    lines = [b"x" * (n * 7919 % 200_000) for n in range(60)]
    await storage.put("x", b"\n".join(lines) + ending)
    found, at = [], 0
    async for offset, some in read_lines(storage, "x"):
        assert offset == at
        found += some
        at += sum(len(line) + 1 for line in some)
    assert found == lines


async def test_a_line_without_end_is_refused(storage: LocalStorage) -> None:
    await storage.put("x", b"y" * (3 * BLOCK))
    with pytest.raises(ValueError, match="longer than"):
        [lines async for lines in read_lines(storage, "x", most=BLOCK)]


async def test_errors_have_reasons(storage: LocalStorage, tmp_path: Path) -> None:
    with pytest.raises(MissingObjectError):
        await read_all(storage, "nope")
    (tmp_path / "files" / "wall").write_bytes(b"")
    with pytest.raises(StorageUnavailableError):
        await storage.put("wall/behind", b"x")  # a file stands where a folder must be
    full = Path("/dev/full")
    if full.exists():
        writer = await storage.writer("x")
        writer._out.close()  # type: ignore[attr-defined]
        writer._out = full.open("wb")  # type: ignore[attr-defined]
        await writer.write(b"x")
        with pytest.raises(StorageFullError):
            await writer.commit()
        await writer.abort()


async def test_what_crashed_long_ago_is_swept(tmp_path: Path) -> None:
    staging = tmp_path / "files" / ".staging"
    staging.mkdir(parents=True)
    old, new = staging / "old", staging / "new"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (1, 1))
    LocalStorage(tmp_path / "files")
    assert list(staging.iterdir()) == [new]


async def test_the_settings_choose(tmp_path: Path) -> None:
    storage = open_storage(BrokerSettings(data_dir=tmp_path))
    await storage.put("x", b"y")
    assert (tmp_path / "files" / "x").read_bytes() == b"y"
    other = open_storage(BrokerSettings(files_url=str(tmp_path / "else")))
    await other.put("x", b"z")
    assert (tmp_path / "else" / "x").read_bytes() == b"z"


@pytest.mark.parametrize(
    ("files_url", "names"),
    [
        (None, {"data"}),
        ("s3://bucket/prefix", {"data"}),
        ("/srv/penstock/more", {"data"}),
        ("/mnt/files", {"data", "files"}),
    ],
)
async def test_folders_whose_disks_are_watched(files_url: str | None, names: set[str]) -> None:
    settings = BrokerSettings(data_dir=Path("/srv/penstock"), files_url=files_url)
    folders = local_folders(settings)
    assert set(folders) == names
    assert folders.get("files", Path(files_url or "")) == Path(files_url or "")


@pytest.mark.parametrize(
    "url", ["", "file:///srv/penstock", "gs://bucket/prefix", "S3://bucket", "s3://", "s3:///x"]
)
async def test_an_address_of_no_storage_is_not_taken_for_a_folder(url: str) -> None:
    with pytest.raises(
        ValidationError, match=r"neither a directory, such as /srv/penstock, nor s3://bucket/prefix"
    ):
        BrokerSettings(files_url=url)
