"""A receiver of webhooks that fails now and then, and what it must have got in the end."""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from standardwebhooks import Webhook


class Receiver:
    """Listens on loopback. One try in a hundred is answered with 500, after it was taken: its endpoint then waits for 5 s, as order asks.

    Attributes:
        url: where it listens.
        ids: (type, object) to the ids of the events that came.
        tries: how many came.
        problems: what must never come.
    """

    def __init__(self, seed: str) -> None:
        self.ids: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.tries = 0
        self.problems: list[str] = []
        self.secret = ""
        self._rng = random.Random(f"{seed}/receiver")
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.receiver = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="receiver")

    def take(self, body: bytes, headers: dict[str, str]) -> int:
        """Take one try; return the status of the answer."""
        with self._lock:
            self.tries += 1
            try:
                event = Webhook(self.secret).verify(body, headers)
            except Exception as error:
                self.problems.append(f"{type(error).__name__}: {error}")
                return 400
            told: dict[str, Any] = event if isinstance(event, dict) else json.loads(body)
            if told["id"] != headers.get("webhook-id"):
                self.problems.append(f"webhook-id {headers.get('webhook-id')} for event {told['id']}")
            self.ids[told["type"], told["data"]["id"]].add(told["id"])
            return 500 if self._rng.random() < 0.01 else 204

    def missing(self, records: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
        """Return the events that these ended jobs, by their ids, must have made and that did not come."""
        wanted = [(f"job.{record['state']}", job) for job, record in records.items() if "batch" not in record]
        return [event for event in wanted if event not in self.ids]

    def doubled(self) -> list[tuple[str, str]]:
        """Return the events that came with more than one id."""
        return [event for event, ids in self.ids.items() if len(ids) > 1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        status = self.server.receiver.take(body, headers)  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""
