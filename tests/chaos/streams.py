"""Readers of the two kinds of streams, without I/O: they put texts together and find what must not be."""

from __future__ import annotations

import json
from typing import Any

from tests.chaos.ledger import TERMINAL


def text_of(answer: dict[str, Any]) -> str:
    """Return the text of a response or of a chunk."""
    said = ""
    for choice in answer.get("choices", []):
        part = choice.get("message") or choice.get("delta") or choice
        said += part.get("content") or part.get("text") or ""
    return said


class OpenAIReader:
    """One OpenAI stream, which cannot be resumed."""

    def __init__(self) -> None:
        self.text = ""
        self.done = False
        self.error: str | None = None

    def feed(self, line: str) -> None:
        """Take a line."""
        if not line.startswith("data: "):
            return
        if line == "data: [DONE]":
            self.done = True
            return
        data = json.loads(line[6:])
        if "error" in data:
            self.error = data["error"]["code"]
        else:
            self.text += text_of(data)


class EventReader:
    """One job's events over any number of connections.

    Attributes:
        cursor: the last event's id, for ``Last-Event-ID``.
        texts: what each attempt said.
        state: the terminal state, once it was told.
        attempt: the one that is speaking.
        events: how many came.
        restarts: how many ``restarted`` events came.
        problems: what a stream must never do.
    """

    def __init__(self) -> None:
        self.cursor = ""
        self.texts: dict[int, str] = {}
        self.state: str | None = None
        self.attempt = 0
        self.events = 0
        self.restarts = 0
        self.problems: list[str] = []
        self._fields: dict[str, str] = {}
        self._begun: set[int] = set()
        self._last = (-1, -1, 0.0)

    def drop(self) -> None:
        """The connection has ended: half an event counts for nothing."""
        self._fields = {}

    def feed(self, line: str) -> bool:
        """Take a line; return whether it completed an event."""
        if line:
            name, _, value = line.partition(": ")
            if name in {"id", "event", "data"}:
                self._fields[name] = value
            return False
        fields, self._fields = self._fields, {}
        if "id" not in fields:
            return False
        self._event(fields["id"], fields["event"], json.loads(fields["data"]))
        return True

    def _event(self, eid: str, event: str, data: dict[str, Any]) -> None:
        entry, _, part = eid.partition(".")
        attempt, seq = (int(number) for number in entry.split("-"))
        place = (attempt, seq, float(part) if part else float("inf"))
        if place <= self._last:
            self.problems.append(f"event {eid} after {self.cursor}: repeated")
        if self.state is not None:
            self.problems.append(f"event {eid} ({event}) after the end")
        self._last, self.cursor = place, eid
        self.events += 1
        if event in {"running", "restarted"}:
            if (event == "restarted") != (attempt > 1):
                self.problems.append(f"event {eid}: attempt {attempt} was announced as {event}")
            self.restarts += event == "restarted"
            self._begun.add(attempt)
            self.attempt = attempt
        elif event == "chunk":
            if attempt not in self._begun:
                self.problems.append(f"event {eid}: attempt {attempt} speaks and was not announced")
            self.texts[attempt] = self.texts.get(attempt, "") + text_of(data)
        elif event in TERMINAL:
            self.state = event
            self.attempt = data["attempt"]
