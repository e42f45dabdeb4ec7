"""A real HTTP server that speaks of itself as OpenAI-compatible, and answers what a test wishes."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import LoopbackServer
from workers.engines.openai.priority import PROBE_ID

Answer = tuple[int, str, bytes]
"""Status, content type and body."""


class Upstream(LoopbackServer):
    """Serves until the block ends. It cannot count tokens.

    Args:
        answer: called with a request's body; of a form, with its bytes as ``form``.
        paths: those that it serves beside all of ``/v1``.

    Attributes:
        models: called for ``GET /v1/models``; a test may replace it.
        others: the same for other paths, with their queries.
        probe: the same for the requests by which an engine learns at its start what the server does with priorities.
    """

    def __init__(
        self,
        answer: Callable[[dict[str, Any]], Answer],
        model: str = "upstream",
        paths: Collection[str] = (),
    ) -> None:
        card = json.dumps({"object": "list", "data": [{"id": model, "object": "model"}]}).encode()
        self.models: Callable[[], Answer] = lambda: (200, "application/json", card)
        self.others: dict[str, Callable[[], Answer]] = {}
        self.probe: Callable[[dict[str, Any]], Answer] = lambda _: (200, "application/json", b"{}")
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(*server.others.get(self.path, server.models)())

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                form = self.headers["content-type"].startswith("multipart/")
                body = {"form": raw} if form else json.loads(raw)
                reply = server.probe if self.headers["x-request-id"] == PROBE_ID else answer
                known = self.path.startswith("/v1/") or self.path in paths
                self._send(*(reply(body) if known else (404, "application/json", b"{}")))

            def _send(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        super().__init__(Handler, "upstream")
        self.url += "/v1"
