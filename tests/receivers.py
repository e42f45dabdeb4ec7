"""A real receiver of webhooks, which answers what a test wishes and remembers what it got."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.loopback import LoopbackServer


@dataclass(frozen=True, slots=True)
class Got:
    """One request.

    Attributes:
        headers: by their names in lower case.
        peer: the port of the sender, the same for all requests of one connection.
        at: when it came, by the monotonic clock.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes
    peer: int
    at: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> str:
        """The event's id."""
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        """The body."""
        event: dict[str, Any] = json.loads(self.body)
        return event


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered, after a delay."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay_s: float = 0.0


class Receiver(LoopbackServer):
    """Serves until the block ends.

    Args:
        answer: called with each request, in a thread of its connection; default: 204.
        certificate: file of a certificate, and of its key: serve TLS.

    Attributes:
        got: the requests, in the order in which they came.
    """

    def __init__(
        self,
        answer: Callable[[Got], Reply] = lambda _: Reply(),
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.got: list[Got] = []
        self.answer = answer
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle(self) -> None:
                with suppress(ConnectionError):  # the sender has gone, or a test has it so
                    super().handle()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                got = Got(self.path, headers, body, self.client_address[1])
                with server._lock:
                    server.got.append(got)
                reply = server.answer(got)
                time.sleep(reply.delay_s)
                self.send_response(reply.status)
                for name, value in {"content-length": str(len(reply.body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: Any) -> None:
                return

        super().__init__(Handler, "receiver")
        self.port = self._server.server_port
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = self.url.replace("http:", "https:")

    @property
    def ids(self) -> list[str]:
        """The ids of the events, in the order in which they came."""
        return [one.id for one in self.got]
