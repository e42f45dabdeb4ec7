"""One bulk run on a server, from rows on disk to rows on disk. Every step can be repeated after an interruption."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, cast

from penstock._core.batch_flows import look_s
from penstock._core.retry import is_transient
from penstock.batch_models import Batch
from penstock.bulk.check import rows_of
from penstock.bulk.ledger import Ledger
from penstock.bulk.workdir import Workdir
from penstock.client import Penstock
from penstock.errors import PenstockError
from penstock.models import Priority

_PAGE_ROWS = 1000
_CURSOR_EXPIRED = "cursor_expired"
_LOOK_EVERY_S = 0.5
_MAX_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Order:
    """How to run the batch.

    Attributes:
        window: its completion window.
        priority: its lane; None is the server's default.
        metadata: the user's pairs.
        patience_s: how long the server may be unreachable before the run is given up.
    """

    window: str = "24h"
    priority: Priority | None = None
    metadata: Mapping[str, str] | None = None
    patience_s: float = 3600.0


class Watcher:
    """Is told how a run proceeds. The methods do nothing here."""

    def uploading(self, sent: int, size: int) -> None:
        """Take the bytes of the input sent so far."""

    def submitted(self, batch: Batch) -> None:
        """Take the batch, which was created."""

    def progress(self, batch: Batch, received: int) -> None:
        """Take the batch as it is, and the number of rows received."""

    def away(self, error: PenstockError, seconds: float) -> None:
        """Take the error of a server that has not answered for this time."""


class _Counted:
    """A file that reports how far it was read."""

    def __init__(self, file: BinaryIO, size: int, report: Callable[[int, int], None]) -> None:
        self._file, self._size, self._report = file, size, report
        self.name = file.name
        self.fileno = file.fileno  # httpx finds its length by this
        self.seekable = file.seekable
        self.tell = file.tell
        self.seek = file.seek

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._report(self._file.tell(), self._size)
        return data


def submit(client: Penstock, workdir: Workdir, order: Order, watcher: Watcher) -> Batch:
    """Upload the rows and create the batch, unless a former run did.

    Raises:
        PenstockError: any error of a call.
    """
    state = workdir.state
    if state.batch_id is not None:
        return client.batches.get(state.batch_id)
    if state.file_id is None:
        size = workdir.input.stat().st_size
        with workdir.input.open("rb") as file:
            counted = cast("BinaryIO", _Counted(file, size, watcher.uploading))
            state.file_id = client.files.upload(
                counted, filename="input.jsonl", idempotency_key=state.file_key
            ).id
        workdir.save()
    batch = client.batches.create(
        state.file_id,
        endpoint=state.endpoint,
        completion_window=order.window,
        metadata=order.metadata,
        priority=order.priority,
        idempotency_key=state.batch_key,
    )
    state.batch_id = batch.id
    workdir.save()
    watcher.submitted(batch)
    return batch


def collect(client: Penstock, workdir: Workdir, order: Order, watcher: Watcher) -> Batch:
    """Fetch the rows as they are committed, until the batch has ended and all of them are here; return the batch.

    If the server does not answer, the calls are repeated for ``order.patience_s`` at most.

    Raises:
        PenstockError: an error of a call that does not pass with time, or did not.
        OSError: the rows cannot be written.
    """
    state = workdir.state
    batch_id = state.batch_id
    assert batch_id is not None  # noqa: S101 - submit() comes first
    batch: Batch | None = None
    answered = time.monotonic()
    looked = 0.0
    tried = failures = 0
    while True:
        try:
            page = client.batches.result_page(batch_id, state.cursor, _PAGE_ROWS)
            now = time.monotonic()
            if batch is None or now - looked >= _LOOK_EVERY_S or not page.incomplete:
                batch = client.batches.get(batch_id)
                looked = now
        except PenstockError as exc:
            if getattr(exc, "code", None) == _CURSOR_EXPIRED:
                break  # it ended long ago, and its files hold everything
            away_s = time.monotonic() - answered
            if not is_transient(exc) or away_s >= order.patience_s:
                raise
            watcher.away(exc, away_s)
            time.sleep(min(0.5 * 2 ** min(failures, 16), _MAX_PAUSE_S))
            failures += 1
            continue
        answered, failures = time.monotonic(), 0
        if page.lines:
            workdir.take(page.lines, page.next_cursor)
            tried = 0
        watcher.progress(batch, state.received)
        if page.lines:
            continue
        if batch.done and not page.incomplete:
            break
        time.sleep(look_s(tried))
        tried += 1
    batch = client.batches.get(batch_id)  # with its files' ids
    if batch.status != "failed" and state.received < state.rows:
        _fill_up(client, workdir, batch)
        watcher.progress(batch, state.received)
    return batch


def _fill_up(client: Penstock, workdir: Workdir, batch: Batch) -> None:
    """Fetch from a batch's files the rows that its results did not have: rows that never ran are only there."""
    with Ledger() as known:
        workdir.settle()
        for line, row in rows_of(workdir.rows):
            known.add(row["custom_id"], line)
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is None:
                continue
            fresh: list[bytes] = []
            for raw in _lines(client.files.content(file_id)):
                if known.add(json.loads(raw)["custom_id"], 0) is None:
                    fresh.append(raw)
                if len(fresh) >= _PAGE_ROWS:
                    workdir.take(b"".join(fresh), workdir.state.cursor)
                    fresh = []
            workdir.take(b"".join(fresh), workdir.state.cursor)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Cut pieces of any length into lines, each with its newline."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line + b"\n" for line in lines if line.strip())
    if rest.strip():
        yield rest + b"\n"
