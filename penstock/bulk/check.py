"""Checking a run from its files: every row of the input is answered once, in one file or the other."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.bulk.ledger import Ledger

SHOWN = 5
"""Ids that are named for each kind of fault; the others are counted."""


@dataclass(slots=True)
class Verdict:
    """The result of a check: for each kind of fault a number, and the first few ids or lines."""

    total: int = 0
    completed: int = 0
    failed: int = 0
    duplicates: int = 0
    missing: int = 0
    unknown: int = 0
    unreadable: int = 0
    named: dict[str, list[str]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether total = completed + failed, each row is there once, none is missing and none is unknown."""
        faults = self.duplicates + self.missing + self.unknown + self.unreadable
        return not faults and self.total == self.completed + self.failed

    def fault(self, kind: str, name: str) -> None:
        """Count a fault."""
        setattr(self, kind, getattr(self, kind) + 1)
        known = self.named.setdefault(kind, [])
        if len(known) < SHOWN:
            known.append(name)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        kinds = ("total", "completed", "failed", "duplicates", "missing", "unknown", "unreadable")
        return {"ok": self.ok, **{kind: getattr(self, kind) for kind in kinds}, "examples": self.named}


class Check:
    """One check: give it the input's ids, then every row that came back, then ask for the verdict.

    Memory: a byte for each row of the input, and the ledger's cache.
    """

    def __init__(self) -> None:
        self.verdict = Verdict()
        self.ledger = Ledger()
        self._seen = array("B")

    def expect(self, ids: Iterable[tuple[int, str]]) -> None:
        """Take the input's ids, with their lines."""
        for line, custom_id in ids:
            if self.ledger.add(custom_id, self.verdict.total) is not None:
                self.verdict.fault("duplicates", f"{custom_id} (line {line} of the input)")
                continue
            self.verdict.total += 1
            self._seen.append(0)

    def show(self, row: Any, where: str) -> int | None:
        """Take a row that came back; return the number of its input row, or None if it does not count."""
        custom_id = row.get("custom_id") if isinstance(row, dict) else None
        if not isinstance(custom_id, str):
            self.verdict.fault("unreadable", where)
            return None
        number = self.ledger.find(custom_id)
        if number is None:
            self.verdict.fault("unknown", f"{custom_id} ({where})")
            return None
        if self._seen[number]:
            self.verdict.fault("duplicates", f"{custom_id} ({where})")
            return None
        self._seen[number] = 1
        if succeeded(row):
            self.verdict.completed += 1
        else:
            self.verdict.failed += 1
        return number

    def show_file(self, path: Path) -> None:
        """Take all rows of a file."""
        for line, row in rows_of(path):
            self.show(row, f"{path.name} line {line}")

    def end(self, ids: Iterable[tuple[int, str]]) -> Verdict:
        """Return the verdict. The ids, as before, are read only to name the missing ones."""
        gone = self._seen.count(0)
        if gone:
            for _, custom_id in ids:
                number = self.ledger.find(custom_id)
                if number is not None and not self._seen[number]:
                    self._seen[number] = 1
                    self.verdict.fault("missing", custom_id)
        self.ledger.close()
        return self.verdict


def succeeded(row: dict[str, Any]) -> bool:
    """Whether a row has a successful response."""
    response = row.get("response")
    return row.get("error") is None and isinstance(response, dict) and response.get("status_code") == 200


def rows_of(path: Path) -> Iterator[tuple[int, Any]]:
    """Give line number and value of each line of a file; None for one that is not JSON, or is cut short."""
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                yield line, json.loads(raw)
            except ValueError:
                yield line, None
