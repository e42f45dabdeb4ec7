"""Encrypted objects: the same as any other to who reads them, and an error when they were changed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from jobs.failures import FailureCode
from jobs.sealing import Keyring
from storage import MissingObjectError, ObjectInfo, Storage, StorageError, UnreadableObjectError
from storage.base import BLOCK, read_all, read_lines
from storage.local import LocalStorage
from storage.sealed import FRAME, HEADER, SealedStorage
from tests.encryption import key_line

pytestmark = pytest.mark.asyncio

K1, K2 = key_line("k1"), key_line("k2")
RAW = FRAME + 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture
def storage(folder: Path) -> SealedStorage:
    return with_keys(folder, K1)


def with_keys(folder: Path, keys: str | None) -> SealedStorage:
    return SealedStorage(LocalStorage(folder), Keyring.parse(keys) if keys else None)


async def write(storage: Storage, key: str, data: bytes, step: int) -> int:
    writer = await storage.writer(key)
    for at in range(0, len(data), step):
        await writer.write(data[at : at + step])
    return await writer.commit()


async def part(storage: Storage, key: str, start: int, end: int | None) -> bytes:
    return b"".join([piece async for piece in storage.read(key, start, end)])


@pytest.mark.parametrize("size", [0, 1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME, 2 * BLOCK + 17, 5 * BLOCK])
async def test_it_is_as_it_was_written_whole_and_in_every_range(storage: SealedStorage, size: int) -> None:
    data = os.urandom(size)
    assert await write(storage, "a/b", data, random.choice([100_000, FRAME, BLOCK, 6 * BLOCK])) == size
    await storage.put("a/c", data)
    for key in ("a/b", "a/c"):
        assert await storage.size(key) == size
        assert await read_all(storage, key) == data
    assert await storage.list("a") == [ObjectInfo("a/b", size), ObjectInfo("a/c", size)]
    edges = sorted(
        {0, 1, size // 2, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME, size - 1, size} & set(range(size + 1))
    )
    for start in edges:
        for end in (*edges, size + 5, None):
            if start < size:
                assert await part(storage, "a/b", start, end) == data[start:end], (start, end)


async def test_lines_are_read_from_any_offset(storage: SealedStorage) -> None:
    lines = [f"{n:06d} {'x' * (n % 300)}".encode() for n in range(5000)]
    data = b"\n".join(lines) + b"\n"
    await storage.put("lines", data)
    offset = len(b"\n".join(lines[:1234])) + 1
    found = [line async for _, some in read_lines(storage, "lines", offset) for line in some]
    assert found == lines[1234:]
    first = [offset async for offset, _ in read_lines(storage, "lines", offset)]
    assert first[0] == offset


async def test_nothing_lies_in_clear(storage: SealedStorage, folder: Path) -> None:
    mark = b"Heidelberg-1386-Ruprecht "
    await write(storage, "x", mark * 10_000, 70_000)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["x.sealed"]
    assert mark.strip() not in files[0].read_bytes()


async def test_clear_objects_stay_readable_and_rotated_ones_too(folder: Path) -> None:
    for name, keys in (("clear", None), ("one", K1), ("two", f"{K2},{K1}")):
        await with_keys(folder, keys).put(name, name.encode() * 3)
    both = with_keys(folder, f"{K2}\n{K1}")
    for name in ("clear", "one", "two"):
        assert await read_all(both, name) == name.encode() * 3
        assert await both.size(name) == len(name) * 3
    assert [one.key for one in await both.list("")] == ["clear", "one", "two"]
    new = with_keys(folder, K2)
    assert await read_all(new, "two") == b"twotwotwo"
    for storage, name, key in ((new, "one", "k1"), (with_keys(folder, None), "two", "k2")):
        with pytest.raises(UnreadableObjectError, match=f"'{key}'") as told:
            await read_all(storage, name)
        assert told.value.reason == "encryption_key_unknown"
        assert await storage.size(name) == len(name) * 3
        assert [one.key for one in await storage.list("")] == ["clear", "one", "two"]
    await both.delete(["clear", "one", "two", "none"])
    assert await both.list("") == []
    assert not [path for path in folder.rglob("*") if path.is_file()]
    with pytest.raises(MissingObjectError):
        await read_all(both, "one")
    with pytest.raises(MissingObjectError):
        await both.size("one")


async def test_an_object_that_was_changed_is_an_error(storage: SealedStorage, folder: Path) -> None:
    data = os.urandom(3 * FRAME)
    await storage.put("x", data)
    path = folder / "x.sealed"
    raw = path.read_bytes()
    assert len(raw) == HEADER + 3 * RAW
    one, two, three = (raw[HEADER + n * RAW : HEADER + (n + 1) * RAW] for n in range(3))
    flipped = bytearray(raw)
    flipped[HEADER + RAW + 5] ^= 1
    wrong = {
        "cut at a frame": raw[:-RAW],
        "cut in a frame": raw[:-1],
        "cut in its header": raw[:20],
        "longer": raw + b"x",
        "with a frame more": raw + three,
        "in another order": raw[:HEADER] + two + one + three,
        "flipped": bytes(flipped),
        "with another's random bytes": raw[: HEADER - 1] + bytes([raw[HEADER - 1] ^ 1]) + raw[HEADER:],
    }
    for what, changed in wrong.items():
        path.write_bytes(changed)
        with pytest.raises(UnreadableObjectError) as told:
            await read_all(storage, "x")
        assert told.value.code is FailureCode.DECRYPTION_FAILED, what
    for nothing in (raw[:HEADER], b""):
        path.write_bytes(nothing)
        with pytest.raises(StorageError):
            await read_all(storage, "x")
    path.write_bytes(wrong["cut at a frame"])
    assert await part(storage, "x", 0, FRAME) == data[:FRAME]
    with pytest.raises(UnreadableObjectError):
        await part(storage, "x", FRAME, 2 * FRAME + 1)
    path.write_bytes(raw)
    (folder / "y.sealed").write_bytes(raw)  # in the place of another object
    with pytest.raises(UnreadableObjectError):
        await read_all(storage, "y")


async def test_what_is_aborted_leaves_nothing(storage: SealedStorage, folder: Path) -> None:
    writer = await storage.writer("x")
    await writer.write(b"half" * FRAME)
    await writer.abort()
    assert await storage.list("") == []
    assert list((folder / ".staging").iterdir()) == []
