"""LoRA adapters, for both clients: ``client.adapters``."""

from __future__ import annotations

import tarfile
from contextlib import contextmanager, suppress
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO

from penstock._core.flows import Flow, Items
from penstock._core.parts import Call, Driver, Iteration, Part
from penstock._core.requests import Request, Upload, given, idempotent, segment, with_json
from penstock.adapter_models import Adapter
from penstock.batch_models import Deleted, File
from penstock.errors import ArgumentError, PenstockError
from penstock.models import Page
from penstock.resources.files import STORING_S

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATH = "/v1/admin/adapters"
_FILES = ("adapter_config.json", "adapter_model.safetensors")


class Adapters(Part[Driver]):
    """Add, list, pin and remove LoRA adapters while everything runs. The key needs the scope ``admin``.

    Every call raises PenstockError.
    """

    @Call
    def add(
        self,
        name: str,
        source: str | PathLike[str],
        *,
        pool: str | None = None,
        tenant: str | None = None,
        pinned: bool = False,
        any_base: bool = False,
    ) -> Flow[Adapter]:
        """Add an adapter, or replace the files of the one of this name. The server checks them and keeps a copy.

        Args:
            name: the name that requests use as their ``model``.
            source: a folder with ``adapter_config.json`` and ``adapter_model.safetensors``, or a tar of it, which are
                uploaded; ``hf:org/name`` or ``hf:org/name@revision``, which the server downloads; or the id of a file on
                the server.
            pool: the pool whose workers load it; None: ``default``.
            tenant: the only tenant that may use it; None: all.
            pinned: workers keep it loaded.
            any_base: take it though it names another base model than the pool's.

        Raises:
            BadRequestError: it is no adapter, does not fit the pool, or its name is taken.
            NotFoundError: there is no such pool or file.
            ArgumentError: there is nothing at the path, or a folder lacks one of the two files.
            OSError: it cannot be read.
        """
        place = fspath(source)
        uploaded = None
        if not place.startswith("hf:") and not (place.startswith("file-") and not Path(place).exists()):
            with _opened(Path(place)) as file:
                upload = Upload(file, "adapter.tar", {"purpose": "user_data"})
                request = Request(
                    "POST", "/v1/files", headers=idempotent(None), upload=upload, extra_timeout_s=STORING_S
                )
                uploaded = (yield from self._fetch(request, File)).id
        body = given(
            name=name, source=uploaded or place, pool=pool, tenant=tenant, pinned=pinned, any_base=any_base
        )
        request = with_json("POST", _PATH, body, extra_timeout_s=STORING_S)
        try:
            made = yield from self._fetch(request, Adapter)
        except PenstockError:
            yield from self._discard(uploaded)
            raise
        yield from self._discard(uploaded)
        return made

    def _discard(self, file_id: str | None) -> Flow[None]:
        """Delete an upload: the adapter has a copy of its own."""
        if file_id is not None:
            with suppress(PenstockError):
                yield from self._fetch(Request("DELETE", f"/v1/files/{file_id}"), Deleted)

    @Iteration
    def list(
        self, *, pool: str | None = None, limit: int | None = None, page_size: int = 100
    ) -> Items[Adapter]:
        """Iterate over the adapters, by pool and name.

        Args:
            pool: only those of this pool.
            limit: the most adapters to return; None returns all.
            page_size: adapters per request, 1 to 100.
        """
        return self._pages(_PATH, Page[Adapter], limit, page_size, pool=pool)

    @Call
    def get(self, name: str, *, pool: str = "default") -> Flow[Adapter]:
        """Return an adapter. Raises NotFoundError if there is none."""
        return self._fetch(Request("GET", _path(pool, name)), Adapter)

    @Call
    def pin(self, name: str, *, pool: str = "default", pinned: bool = True) -> Flow[Adapter]:
        """Have workers keep an adapter loaded, or no longer. Raises NotFoundError if there is none."""
        return self._fetch(with_json("PATCH", _path(pool, name), {"pinned": pinned}), Adapter)

    @Call
    def remove(self, name: str, *, pool: str = "default") -> Flow[bool]:
        """Remove an adapter; return whether the server did. Requests that run end as they began.

        Raises NotFoundError if there is none.
        """
        return (yield from self._fetch(Request("DELETE", _path(pool, name)), Deleted)).deleted


def _path(pool: str, name: str) -> str:
    return f"{_PATH}/{segment(pool, 'the pool')}/{segment(name, 'the adapter')}"


@contextmanager
def _opened(place: Path) -> Iterator[BinaryIO]:
    """Open what is uploaded: a file as it is, a folder as a tar of the two files."""
    if place.is_file():
        with place.open("rb") as file:
            yield file
        return
    missing = [name for name in _FILES if not (place / name).is_file()]
    if missing:
        what = f"the folder {place} has no {missing[0]}" if place.is_dir() else f"there is nothing at {place}"
        raise ArgumentError(
            f"{what}; an adapter is a folder with {_FILES[0]} and {_FILES[1]}, a tar of it, or hf:org/name"
        )
    with TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name in _FILES:
                tar.add((place / name).resolve(), name)
        file.seek(0)
        yield file
