"""Files that take long to write: what came is kept when the command stops, and the same command continues."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from penstock.cli._exits import INTERRUPTED, USAGE, fail, note


class Partial:
    """Writes files as ``FILE.part``; they get their names together, when all is there. Use it in a ``with``.

    ``FILE.part.json`` says how far they are, as of the last :meth:`save`. A later command with the same source and the
    same files continues there: what was written after it is cut off.

    Args:
        targets: the files; the first one names the state file.
        source: the id of what is written. It must not change on the server.
        overwrite: replace existing files, and unfinished ones of another source.

    Attributes:
        files: open for appending, in the order of ``targets``.
        state: what the last :meth:`save` took; empty at the beginning.

    Raises:
        SystemExit: on entering, a file exists or cannot be written; on leaving, it cannot be written, or Ctrl-C.
    """

    def __init__(self, targets: Sequence[str], source: str, *, overwrite: bool) -> None:
        self._targets = [Path(target) for target in targets]
        self._parts = [path.with_name(path.name + ".part") for path in self._targets]
        self._note = self._parts[0].with_name(self._parts[0].name + ".json")
        self._source = source
        self._overwrite = overwrite
        self._open = ExitStack()
        self._finished = False
        self.files: list[BinaryIO] = []
        self.state: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Open the files where they were left."""
        for path in self._targets:
            if path.exists() and not self._overwrite:
                fail(f"{path} already exists; --overwrite replaces it", USAGE)
        try:
            sizes = self._left()
            for part, size in zip(self._parts, sizes, strict=True):
                file = self._open.enter_context(part.open("r+b" if size else "wb"))
                file.truncate(size)
                file.seek(size)
                self.files.append(file)
        except OSError as exc:
            self._open.close()
            fail(f"cannot write: {exc}", USAGE)
        return self

    def save(self, **state: Any) -> None:
        """Note that the files hold what belongs to this state."""
        self.state = state
        for file in self.files:
            file.flush()
        sizes = [file.tell() for file in self.files]
        told = {"source": self._source, "files": self._names, "bytes": sizes, "state": state}
        draft = self._note.with_name(self._note.name + "~")
        draft.write_text(json.dumps(told))
        draft.replace(self._note)

    def finish(self) -> None:
        """Give the files their names."""
        for file in self.files:
            file.flush()
            os.fsync(file.fileno())
        self._open.close()
        for part, path in zip(self._parts, self._targets, strict=True):
            part.replace(path)
        self._note.unlink(missing_ok=True)
        self._finished = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep what came, and say so; Ctrl-C and a file that cannot be written end the command."""
        if self._finished:
            return
        self._open.close()
        if self.state:
            kept = " and ".join(str(part) for part in self._parts)
            note(f"\nStopped; what came is kept in {kept}. The same command continues there.")
        else:
            for path in (*self._parts, self._note):
                path.unlink(missing_ok=True)
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(INTERRUPTED) from None
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            fail(f"cannot write: {error}", USAGE)

    @property
    def _names(self) -> list[str]:
        return [path.name for path in self._targets]

    def _left(self) -> list[int]:
        """Return how many bytes of each file an earlier command left; 0 if there was none."""
        nothing = [0] * len(self._parts)
        try:
            told = json.loads(self._note.read_bytes())
            sizes = [int(size) for size in told["bytes"]]
            same = (told["source"], told["files"]) == (self._source, self._names)
            whole = all(part.stat().st_size >= size for part, size in zip(self._parts, sizes, strict=True))
            state = dict(told["state"])
        except FileNotFoundError:
            return nothing  # no earlier command, or its files were removed
        except (ValueError, KeyError, TypeError):
            same = False
        if not same and self._overwrite:
            return nothing
        if not same:
            fail(
                f"{self._note} is of an unfinished command with other files or ids: --overwrite starts anew",
                USAGE,
            )
        if not whole:
            return nothing
        self.state = state
        note(f"continuing with what an earlier command left in {' and '.join(map(str, self._parts))}")
        return sizes
