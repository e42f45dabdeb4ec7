"""The number of the row of each ``custom_id``: an index on disk, so that a million ids need little memory."""

from __future__ import annotations

import sqlite3
from typing import Self

_CACHE_KIB = 32 * 1024


class Ledger:
    """Numbers by id, in a temporary database that is deleted with this object."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # "": a private file, deleted by itself
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("CREATE TABLE ids (id TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def add(self, custom_id: str, number: int) -> int | None:
        """Add an id; return the number that it already has, or None if it is new."""
        try:
            self._db.execute("INSERT INTO ids VALUES (?, ?)", (custom_id, number))
        except sqlite3.IntegrityError:
            return self.find(custom_id)
        return None

    def find(self, custom_id: str) -> int | None:
        """Return an id's number; None if it is unknown."""
        found = self._db.execute("SELECT n FROM ids WHERE id = ?", (custom_id,)).fetchone()
        return None if found is None else int(found[0])

    def close(self) -> None:
        """Delete it."""
        self._db.close()

    def __enter__(self) -> Self:
        """Return the ledger itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Delete it."""
        self.close()
