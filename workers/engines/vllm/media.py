"""Images, audio and video by URL: what the worker may fetch for a request.

vLLM's own connector fetches any URL when no domains are set, so a request could read the network behind the worker.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

NAME = "penstock"
"""Of our connector in vLLM's registry."""

ANY = "*"
"""In ``--allowed-media-domains``: every host."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_INSTEAD = "send the media as a data: URL (base64)"


class PrivateAddressError(OSError):
    """The address is not one of the public internet."""


def guard(*, private: bool) -> Callable[[], Awaitable[None]]:
    """Make vLLM fetch media by our rules, unless the environment names another connector. Before an engine starts.

    Args:
        private: allow addresses of private networks, for hosts in the allowed domains.

    Returns:
        What closes the connections over which media were fetched. It is awaited on the loop of the engine.
    """
    # A redirect leads to a host that was not checked against the domains.
    os.environ.setdefault("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0")
    os.environ.setdefault("VLLM_MEDIA_CONNECTOR", NAME)
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    connection = _connection(private=private)
    MEDIA_CONNECTOR_REGISTRY.register(NAME)(_connector(connection))
    close: Callable[[], Awaitable[None]] = connection.aclose
    return close


def check_address(address: str) -> None:
    """Refuse an address that is not public.

    Raises:
        PrivateAddressError: it is private, loopback, link-local, multicast or reserved, also when written in IPv6.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    if not ip.is_global or ip.is_multicast:
        raise PrivateAddressError(f"{address} is not a public address")


def _public_socket(info: Any) -> socket.socket:
    """Make a socket for an address that aiohttp connects to: also after a redirect, or a second look at the name."""
    family, kind, protocol, _, address = info
    check_address(address[0])
    return socket.socket(family, kind, protocol)


def _refusal(host: str, why: str) -> Exception:
    """Return vLLM's exception for a request that is wrong: the client is answered 400 with this text."""
    from vllm.exceptions import VLLMValidationError

    refused: Exception = VLLMValidationError(f"this server fetches no media from {host}: {why}; {_INSTEAD}")
    return refused


async def _check_host(host: str) -> None:
    """Refuse at once what the socket would refuse after vLLM's retries."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return  # vLLM's own attempt says so, and may have more luck
    try:
        for *_, address in found:
            check_address(str(address[0]))
    except PrivateAddressError:
        raise _refusal(host, "its address is in a private network") from None


def _connection(*, private: bool) -> Any:
    """Return what vLLM sends its requests with."""
    import aiohttp  # vLLM's own HTTP library
    from vllm.connections import HTTPConnection
    from yarl import URL

    class GuardedConnection(HTTPConnection):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._clients: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}

        def get_sync_client(self) -> Any:
            raise _refusal("any host", "only requests of the api's own endpoints may name one")

        async def get_async_client(self) -> aiohttp.ClientSession:
            loop = asyncio.get_running_loop()
            if loop not in self._clients:
                self._clients = {one: client for one, client in self._clients.items() if not one.is_closed()}
                connector = aiohttp.TCPConnector(socket_factory=None if private else _public_socket)
                # No proxy of the environment: the check is of the address that we connect to.
                self._clients[loop] = aiohttp.ClientSession(connector=connector)
            return self._clients[loop]

        async def aclose(self) -> None:
            if client := self._clients.pop(asyncio.get_running_loop(), None):
                await client.close()

        async def async_get_bytes(self, url: str, **options: Any) -> bytes:
            if not private:
                await _check_host(URL(url).host or "")
            return bytes(await super().async_get_bytes(url, **options))

    return GuardedConnection()


def _connector(connection: Any) -> Any:
    """Return the class of our connector."""
    from vllm.multimodal.media import MediaConnector

    class GuardedConnector(MediaConnector):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, connection=connection, **options)

        def _assert_url_in_allowed_media_domains(self, url_spec: Any) -> None:
            allowed = self.allowed_media_domains
            if ANY not in allowed and url_spec.hostname not in allowed:
                why = (
                    "it is not in --allowed-media-domains"
                    if allowed
                    else "no --allowed-media-domains are set"
                )
                raise _refusal(url_spec.hostname, why)

    return GuardedConnector
