"""The folder beside the output that a run keeps until it is done: its rows, the rows received, and its state.

``state.json`` is replaced atomically after its data is fsynced; on resume, anything past ``received_bytes`` is
truncated. So it is right also after a crash or a full disk.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from penstock.bulk.problems import InputError

_VERSION = 1


@dataclass(slots=True)
class State:
    """The state of a run.

    Attributes:
        asked: the options that shaped the rows; a resumed run must have the same.
        file_key: idempotency key of the upload, and ``batch_key`` of the batch, so that repeating them is harmless.
        cursor: after the rows received.
        received_bytes: the valid length of ``rows.jsonl``.
    """

    asked: dict[str, Any] = field(default_factory=dict)
    version: int = _VERSION
    url: str | None = None
    embedded: bool = False
    kind: str = ""
    rows: int = 0
    endpoint: str = ""
    model: str = ""
    file_key: str = field(default_factory=lambda: uuid.uuid4().hex)
    batch_key: str = field(default_factory=lambda: uuid.uuid4().hex)
    file_id: str | None = None
    batch_id: str | None = None
    cursor: str | None = None
    received: int = 0
    received_bytes: int = 0


class Workdir:
    """The folder of one run, locked while it is used. Use it in a ``with``.

    Args:
        path: where it is.
        begin: empty it first; False continues what is there.

    Raises:
        InputError: another run uses it, or it cannot be read.
    """

    def __init__(self, path: Path, *, begin: bool) -> None:
        self.path = path
        self.input = path / "input.jsonl"
        self.rows = path / "rows.jsonl"
        self._lock: IO[str] | None = None
        path.mkdir(parents=True, exist_ok=True)
        self._take()
        try:
            self.state = self._begin() if begin else _read(path)
        except BaseException:
            self.close()
            raise

    @property
    def started(self) -> bool:
        """Whether there is anything to resume."""
        return self.state.rows > 0 and self.input.exists()

    @staticmethod
    def was_sent(path: Path) -> bool:
        """Whether a run in this folder has given its rows to a server, so that a new run would lose something.

        Raises:
            InputError: its state cannot be read.
        """
        return _read(path).file_id is not None

    def save(self) -> None:
        """Write the state to disk."""
        draft = self.path / "state.json.part"
        with draft.open("w") as file:
            json.dump(asdict(self.state), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path / "state.json")

    def take(self, lines: bytes, cursor: str | None) -> None:
        """Keep received rows and the cursor after them. On return they are on disk."""
        with self.rows.open("ab") as file:
            file.truncate(self.state.received_bytes)  # the rest of a page that was cut short
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self.state.received_bytes += len(lines)
        self.state.received += lines.count(b"\n")
        self.state.cursor = cursor
        self.save()

    def settle(self) -> None:
        """Cut off a page that was not kept as a whole."""
        with self.rows.open("ab") as file:
            file.truncate(self.state.received_bytes)

    def remove(self) -> None:
        """Delete the folder: the run is done."""
        self.close()
        shutil.rmtree(self.path)

    def close(self) -> None:
        """Unlock it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        """Return the folder itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Unlock it."""
        self.close()

    def _begin(self) -> State:
        for one in self.path.iterdir():
            if one.name == "lock":
                continue
            if one.is_dir():
                shutil.rmtree(one)
            else:
                one.unlink()
        return State()

    def _take(self) -> None:
        try:
            import fcntl
        except ImportError:  # on Windows the user must avoid two runs with one output
            return
        self._lock = (self.path / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            self._lock.close()
            self._lock = None
            raise InputError(f"another run is using {self.path}") from exc


def _read(folder: Path) -> State:
    path = folder / "state.json"
    try:
        kept = json.loads(path.read_bytes())
        if kept.get("version") != _VERSION:
            raise InputError(f"{path} is of another version of penstock; replace it with --overwrite")
        return State(**kept)
    except FileNotFoundError:
        return State()
    except (ValueError, TypeError, AttributeError) as exc:
        raise InputError(f"{path} cannot be read: {exc}; replace it with --overwrite") from exc
