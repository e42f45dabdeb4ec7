"""Requests to addresses that clients chose, so that nobody reaches what only this machine can reach (SSRF).

A host is resolved once for each connection, every address is checked, and the connection goes to a checked address: a name
that resolves to something else a moment later (DNS rebinding) changes nothing. TLS checks the host's name. No redirect is
followed, no proxy is taken from the environment, no cookie is kept. Time and the size of an answer are bounded.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from coordinator.webhooks.names import CheckedNames, SystemNames
from jobs.addresses import Allowed
from jobs.webhook_targets import TargetError, check_target

KEPT_BYTES: Final = 2048
"""Of an answer's body, for the record of the try."""

READ_BYTES: Final = 65_536
"""Of an answer's body, so that its connection can be used again. After more it is closed."""

CONNECT_SHARE: Final = 0.5
"""Of the time of a try, for the connection."""

KEEP_ALIVE_S: Final = 30.0

THREADS: Final = 2
"""For look-ups of names, for each connection: one may hang for longer than its try."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How one request went.

    Attributes:
        status: of the answer; None: there is none.
        body: its beginning, or why there is none: one sentence.
        ms: how long it took, in milliseconds.
        retry_after: the header, as it came.
        refused: nothing was sent, as the address is not allowed.
    """

    status: int | None
    body: str
    ms: int
    retry_after: str | None = None
    refused: bool = False


class Guard:
    """Sends requests. Use it as an asynchronous context manager, on one event loop.

    Args:
        allowed: the networks that are allowed beside public addresses.
        allow_http: ``http://`` is enough.
        timeout_s: longest time of one request, from the look-up of the name to the end of the answer.
        connections: most connections at once.
        names: resolves names; None: the system's resolver.
    """

    def __init__(
        self,
        allowed: Allowed,
        *,
        allow_http: bool,
        timeout_s: float,
        connections: int,
        names: AbstractResolver | None = None,
    ) -> None:
        self._allowed, self._allow_http = allowed, allow_http
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=ssl.create_default_context(),
                limit=connections,
                resolver=CheckedNames(allowed, names or SystemNames(THREADS * connections)),
                use_dns_cache=False,  # a connection is made seldom, as it is kept for the next requests
                keepalive_timeout=KEEP_ALIVE_S,
            ),
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=timeout_s * CONNECT_SHARE),
            headers={"User-Agent": "penstock-webhooks", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a small answer may unpack to a huge one
            trust_env=False,
        )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send one POST request. What goes wrong becomes an answer without a status."""
        began = time.monotonic()
        try:
            check_target(url, allow_http=self._allow_http, allowed=self._allowed)
            status, text, retry_after = await self._send(URL(url, encoded=True), body, headers)
        except TargetError as error:
            return Answer(None, str(error), _ms(began), refused=True)
        except TimeoutError:
            return Answer(None, "the receiver did not answer in time", _ms(began))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = f"the receiver cannot be reached: {error or type(error).__name__}"
            return Answer(None, why[:KEPT_BYTES], _ms(began))
        return Answer(status, text, _ms(began), retry_after)

    async def _send(self, url: URL, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, str | None]:
        async with self._http.post(url, data=body, headers=headers, allow_redirects=False) as response:
            return response.status, await _beginning(response), response.headers.get("Retry-After")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.close()
        await asyncio.sleep(0)  # lets the transports close


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """Return the beginning of an answer's body; close the connection of one that is too long."""
    kept = b""
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        kept += piece[: KEPT_BYTES - len(kept)]
        if size > READ_BYTES:
            response.close()
            break
    return kept.decode(errors="replace")


def _ms(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
