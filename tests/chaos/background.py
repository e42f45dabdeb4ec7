"""A reader of background responses, without I/O: it counts events and finds what must not be."""

from __future__ import annotations

import json
from typing import Any

ENDED = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")


def text_of_response(response: dict[str, Any]) -> str:
    """Return the text of a response's messages."""
    return "".join(
        part.get("text", "")
        for item in response.get("output", [])
        if item["type"] == "message"
        for part in item["content"]
    )


class ResponseReader:
    """One background response's events over any number of connections.

    Attributes:
        last: the number of the last event, for ``starting_after``; -1: none came.
        text: what the present attempt said.
        restarts: how often it was queued again.
        response: the response of the last event, once it was told.
        problems: what a stream must never do.
    """

    def __init__(self) -> None:
        self.last = -1
        self.text = ""
        self.restarts = -1  # it is queued once at its start
        self.response: dict[str, Any] | None = None
        self.problems: list[str] = []
        self._name = ""

    def feed(self, line: str) -> bool:
        """Take a line; return whether it completed an event."""
        if line.startswith("event: "):
            self._name = line.removeprefix("event: ")
        if not line.startswith("data: "):
            return False
        event = json.loads(line.removeprefix("data: "))
        if event["type"] != self._name:
            self.problems.append(f"the event {self._name} is of type {event['type']}")
        self._event(event)
        return True

    def _event(self, event: dict[str, Any]) -> None:
        number, kind = event["sequence_number"], event["type"]
        if number != self.last + 1:
            self.problems.append(f"event {number} ({kind}) after {self.last}")
        if self.response is not None:
            self.problems.append(f"event {number} ({kind}) after the end")
        self.last = number
        if kind == "response.queued":
            self.restarts += 1
            self.text = ""
        elif kind == "response.output_text.delta":
            self.text += event["delta"]
        elif kind in ENDED:
            self.response = event["response"]
