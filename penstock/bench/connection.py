"""A keep-alive connection that costs little: asyncio's protocol and httptools.

The client shares its cores with the server on a small machine. httpx takes about ten times as long for a call, and its own
delays would be measured as the server's.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

import httptools

Sink = Callable[[bytes], None]


class CutError(Exception):
    """The server closed the connection before the end of its answer. ``begun``: some of it had come."""

    def __init__(self, why: str, *, begun: bool) -> None:
        super().__init__(why)
        self.begun = begun


class Address:
    """Where calls go.

    Args:
        url: of the server, without a path of its own API.
        context: for https.
        headers: of each call.
    """

    def __init__(self, url: str, context: ssl.SSLContext, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        self.secure = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if self.secure else 80)
        self.path = parts.path.rstrip("/")
        self.context = context if self.secure else None
        self._head = f"host: {parts.netloc.rpartition('@')[2]}\r\n"
        self._head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    def post(self, path: str, body: bytes) -> bytes:
        """Return the bytes of a call."""
        head = f"POST {self.path}{path} HTTP/1.1\r\n{self._head}content-length: {len(body)}\r\n\r\n"
        return head.encode("latin-1") + body


class Connection(asyncio.Protocol):
    """One connection; it carries one call at a time.

    Attributes:
        usable: it is open, and no call runs on it.
        fresh: it has carried no call yet.
    """

    def __init__(self) -> None:
        self.fresh = True
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[int] | None = None
        self._sink: Sink = _nobody
        self._begun = False
        self._status = 0
        self._whole = False

    @classmethod
    async def open(cls, address: Address) -> Connection:
        """Connect. Raises OSError."""
        name = address.host if address.secure else None
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(
            cls, address.host, address.port, ssl=address.context, server_hostname=name
        )
        return made

    @property
    def usable(self) -> bool:
        """See the class."""
        return self._transport is not None and not self._transport.is_closing() and self._done is None

    async def call(self, data: bytes, sink: Sink) -> int:
        """Send a call and read its answer to the end; return the status.

        Args:
            data: its bytes.
            sink: is called with each piece of the body as it comes.

        Raises:
            CutError: the connection broke, or the answer is no HTTP.
            CancelledError: the connection is closed then, and the server sees that its caller has gone.
        """
        if self._transport is None or self._transport.is_closing():
            raise CutError("the connection was closed", begun=False)
        self._done = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._sink, self._begun, self._whole = sink, False, False
        self._transport.write(data)
        try:
            return await self._done
        except BaseException:
            self.close()
            raise
        finally:
            self._done = None
            self.fresh = False

    def close(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio calls these ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = transport  # type: ignore[assignment]  # a protocol of streams gets no other kind

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._done is None:  # an answer that nobody asked for
            self.close()
            return
        self._begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the answer is no HTTP: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._transport = None
        self._fail(str(exc or "the server closed the connection"))

    def _fail(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(CutError(why, begun=self._begun))

    # httptools calls these ----------------------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        """Take the status; an interim answer (1xx) is not the one."""
        self._status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """Pass a piece on."""
        self._sink(data)

    def on_message_complete(self) -> None:
        """End the call."""
        if self._status < 200 or self._done is None or self._done.done():
            return
        if not self._parser.should_keep_alive():
            self.close()
        self._done.set_result(self._status)


def _nobody(_: bytes) -> None:
    """Take no bytes: no call runs."""
