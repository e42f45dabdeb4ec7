"""LoRA adapters as objects in storage: one tar, made from a folder, a client's tar, or weights alone."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from jobs.adapter_files import CONFIG, WEIGHTS, AdapterFacts, BadAdapterError
from storage.adapters import AdapterFiles, check_files, keep, opened, unpack
from storage.base import read_all
from storage.local import LocalStorage
from tests.adapters import write_adapter

pytestmark = pytest.mark.asyncio
MOST = 1 << 20


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "files")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def tar_of(*members: tuple[str, bytes | Path], mode: str = "w") -> bytes:
    """Make a tar; a Path is the target of a link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, Path):
                member.type, member.linkname = tarfile.SYMTYPE, str(content)
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def files_of(folder: Path, prefix: str = "") -> list[tuple[str, bytes | Path]]:
    return [(prefix + name, (folder / name).read_bytes()) for name in (CONFIG, WEIGHTS)]


async def test_the_same_files_have_the_same_digest_and_come_back(
    storage: LocalStorage, folder: Path, tmp_path: Path
) -> None:
    assert check_files(AdapterFiles.of(folder), MOST) == AdapterFacts(8, "tiny")
    first = await keep(AdapterFiles.of(folder), storage, "adapters/a")
    os.utime(folder / WEIGHTS, (1, 1))
    assert await keep(AdapterFiles.of(folder), storage, "adapters/b") == first
    assert first.size == await storage.size("adapters/a")
    back = tmp_path / "back"
    back.mkdir()
    (tmp_path / "object").write_bytes(await read_all(storage, "adapters/a"))
    unpack(tmp_path / "object", back, MOST)
    assert {one.name: one.read_bytes() for one in back.iterdir()} == dict(files_of(folder))


@pytest.mark.parametrize(("mode", "prefix"), [("w", ""), ("w:gz", "sql/"), ("w:xz", "./"), ("w:bz2", "")])
async def test_a_clients_tar(storage: LocalStorage, folder: Path, mode: str, prefix: str) -> None:
    more: list[tuple[str, bytes | Path]] = [(f"{prefix}README.md", b"hi")]
    await storage.put("up", tar_of(*more, *files_of(folder, prefix), mode=mode))
    async with opened(storage, "up", None, MOST) as files:
        assert check_files(files, MOST).rank == 8
        kept = await keep(files, storage, "kept")
        room = files.config.parent
    assert not room.exists()
    assert kept == await keep(AdapterFiles.of(folder), storage, "other")


async def test_weights_alone_need_a_configuration(storage: LocalStorage, folder: Path) -> None:
    await storage.put("up", (folder / WEIGHTS).read_bytes())
    async with opened(storage, "up", (folder / CONFIG).read_bytes(), MOST) as files:
        assert check_files(files, MOST).base == "tiny"
    with pytest.raises(BadAdapterError, match="no tar, or a damaged one"):
        async with opened(storage, "up", None, MOST):
            pass


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([("../adapter_config.json", b"x")], "out of it are refused"),
        ([("/etc/adapter_config.json", b"x")], "out of it are refused"),
        ([(CONFIG, Path("/etc/passwd"))], "links"),
        ([("a/" + CONFIG, b"x"), ("b/" + CONFIG, b"x")], "twice"),
        ([(f"{n}", b"") for n in range(1001)], "more than 1000 files"),
        ([("big", bytes(MOST + 1))], "1048576 bytes"),
        ([("readme", b"x")], f"there is no {CONFIG}"),
    ],
    ids=["up", "absolute", "link", "twice", "many", "large", "nothing"],
)
async def test_a_tar_that_is_refused(
    storage: LocalStorage, members: list[tuple[str, bytes | Path]], why: str
) -> None:
    await storage.put("up", tar_of(*members, mode="w:gz"))
    with pytest.raises(BadAdapterError, match=why):
        async with opened(storage, "up", None, MOST) as files:
            check_files(files, MOST)


def header(kind: bytes, content: bytes) -> bytes:
    """Make a header of a kind that tarfile itself does not write as it is needed here."""
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, len(content)
    return member.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


SPARSE = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
COMMENT = b"13 comment=x\n"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (header(tarfile.XHDTYPE, bytes(8 << 20)), "extended header of 8388608 bytes"),
        (header(tarfile.XGLTYPE, bytes(8 << 20)), "extended header"),
        (header(tarfile.GNUTYPE_LONGNAME, b"n" * (8 << 20)), "extended header"),
        (header(tarfile.GNUTYPE_SPARSE, b""), "sparse"),
        (header(tarfile.XHDTYPE, SPARSE) + header(tarfile.REGTYPE, b"9" * 600), "sparse"),
        (header(tarfile.XHDTYPE, COMMENT) * 3000, "no tar, or a damaged one"),
    ],
    ids=["pax", "global", "long-name", "gnu-sparse", "pax-sparse", "chain"],
)
async def test_headers_that_would_fill_the_memory(
    storage: LocalStorage, folder: Path, data: bytes, why: str
) -> None:
    await storage.put("up", gzip.compress(data + tar_of(*files_of(folder)), 1))
    with pytest.raises(BadAdapterError, match=why):
        async with opened(storage, "up", None, MOST):
            pass


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
async def test_the_beginning_of_a_tar(storage: LocalStorage, tmp_path: Path, mode: str) -> None:
    whole = tar_of(*files_of(write_adapter(tmp_path / "large", hidden=1000)), mode=mode)
    await storage.put("up", whole[: len(whole) // 3])
    with pytest.raises(BadAdapterError):
        async with opened(storage, "up", None, MOST) as files:
            check_files(files, MOST)


async def test_files_that_are_missing_or_too_large(folder: Path) -> None:
    with pytest.raises(BadAdapterError, match="setting adapter_max_bytes"):
        check_files(AdapterFiles.of(folder), 10)
    (folder / WEIGHTS).unlink()
    with pytest.raises(BadAdapterError, match=f"there is no {WEIGHTS}"):
        check_files(AdapterFiles.of(folder), MOST)
