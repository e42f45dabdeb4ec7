"""LoRA adapters from the hub: a hub of our own on loopback, its cache, and its absence."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from jobs.adapter_files import WEIGHTS, BadAdapterError
from storage.adapter_hub import from_hub
from storage.adapters import check_files
from tests.adapters import write_adapter

MOST = 1 << 20


class Hub(BaseHTTPRequestHandler):
    """Answers ``/org/sql/resolve/main/<file>`` as the hub does. ``status``: of every answer that has a file."""

    status = 200

    def __init__(self, folder: Path, *args: object) -> None:
        self.folder = folder
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path, _, name = self.path.partition("/resolve/main/")
        file = self.folder / name
        if path != "/org/sql" or not file.is_file():
            self.send_error(404)
            return
        if self.status != 200:
            self.send_error(self.status)
            return
        data = file.read_bytes()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.send_header("etag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("x-repo-commit", "c" * 40)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a folder with one adapter; return the folder."""
    folder = write_adapter(tmp_path / "hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_adapter_is_fetched_and_then_in_the_cache(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = from_hub("hf:org/sql", MOST)
    assert check_files(files, MOST).rank == 8
    assert files.weights.read_bytes() == (hub / WEIGHTS).read_bytes()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert from_hub("hf:org/sql@main", MOST) == files
    with pytest.raises(BadAdapterError, match="HF_HUB_OFFLINE is set"):
        from_hub("hf:org/other", MOST)


def test_one_that_is_too_large_is_not_downloaded(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(BadAdapterError, match="setting adapter_max_bytes"):
        from_hub("hf:org/sql", 10)
    assert not (tmp_path / "cache").exists()


def test_one_that_is_not_there(hub: Path) -> None:
    with pytest.raises(BadAdapterError, match="hf:org/other cannot be had from the hub"):
        from_hub("hf:org/other", MOST)


@pytest.mark.parametrize("source", ["hf:", "hf:x", "hf:a/b/c", "hf:../x", "hf:a/b@é", "hf:a/b@" + "x" * 201])
def test_wrong_names(source: str) -> None:
    with pytest.raises(BadAdapterError, match="names no adapter on the hub"):
        from_hub(source, MOST)
