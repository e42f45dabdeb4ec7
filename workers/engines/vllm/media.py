"""Images, audio and video by URL: what the worker may fetch for a request.

vLLM's own connector fetches any URL when no domains are set, so a request could read the network behind the worker.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

NAME = "penstock"
"""Of our connector in vLLM's registry."""

ANY = "*"
"""In ``--allowed-media-domains``: every host."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_INSTEAD = "send the media as a data: URL (base64)"


_FEWEST_THREADS, _MOST_THREADS = 2, 16


class PrivateAddressError(OSError):
    """The address is not one of the public internet."""


@dataclass(frozen=True, slots=True)
class MediaRules:
    """What requests may bring.

    Attributes:
        private: addresses of private networks are allowed, for hosts in the allowed domains.
        image_max_bytes: largest image that is fetched; None: vLLM's own bound for media.
        image_max_pixels: largest image that is opened; None: vLLM's own bound.
    """

    private: bool = False
    image_max_bytes: int | None = None
    image_max_pixels: int | None = None


def set_defaults(rules: MediaRules) -> None:
    """Set vLLM's own settings of media where the environment does not. Before anything of it is imported.

    Several threads decode: a large image takes one of them for a second. A fetch is tried twice, with a second between:
    vLLM's three tries of a host that is away take five seconds, and of a silent one minutes.
    """
    cores = len(os.sched_getaffinity(0))
    defaults = {
        "VLLM_MEDIA_LOADING_THREAD_COUNT": max(_FEWEST_THREADS, min(cores, _MOST_THREADS)),
        "VLLM_MEDIA_FETCH_MAX_RETRIES": 2,
        # A redirect leads to a host that was not checked against the domains.
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": 0,
        "VLLM_MEDIA_CONNECTOR": NAME,
    }
    if rules.image_max_pixels is not None:
        defaults["VLLM_MAX_IMAGE_PIXELS"] = rules.image_max_pixels
    for name, value in defaults.items():
        os.environ.setdefault(name, str(value))


def guard(rules: MediaRules) -> Callable[[], Awaitable[None]]:
    """Make vLLM fetch media by our rules, unless the environment names another connector. Before an engine starts.

    Returns:
        What closes the connections over which media were fetched. It is awaited on the loop of the engine.
    """
    set_defaults(rules)
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    connection = _connection(private=rules.private)
    MEDIA_CONNECTOR_REGISTRY.register(NAME)(_connector(connection, rules))
    close: Callable[[], Awaitable[None]] = connection.aclose
    return close


def domains(allowed: Collection[str] | None) -> tuple[str, ...] | None:
    """Return the hosts from which media are fetched, by vLLM's flag. None: another connector than ours decides."""
    if os.environ.get("VLLM_MEDIA_CONNECTOR", NAME) != NAME:
        return None
    return tuple(sorted(allowed or ()))


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
    return _wrong(f"this server fetches no media from {host}: {why}; {_INSTEAD}")


def _wrong(message: str) -> Exception:
    """Return vLLM's exception for a request that is wrong: the client is answered 400 with this text."""
    from vllm.exceptions import VLLMValidationError

    wrong: Exception = VLLMValidationError(message)
    return wrong


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
            host = URL(url).host or ""
            if not private:
                await _check_host(host)
            try:
                return bytes(await super().async_get_bytes(url, **options))
            except (aiohttp.ClientError, OSError, ValueError) as error:  # also of a time-out
                raise _unreachable(host, error) from error

    return GuardedConnection()


def _unreachable(host: str, error: Exception) -> Exception:
    """Return the refusal of a URL that gives nothing: another worker would get no more from it, so no retry helps."""
    from vllm.exceptions import VLLMValidationError

    if isinstance(error, VLLMValidationError):
        refused: Exception = error
        return refused
    status = getattr(error, "status", None)
    why = f"it answered {status}" if status else str(error) or type(error).__name__
    return _wrong(f"the media at {host} cannot be fetched: {why}; {_INSTEAD}")


def _connector(connection: Any, rules: MediaRules) -> Any:
    """Return the class of our connector."""
    from vllm.exceptions import VLLMUnprocessableEntityError, VLLMValidationError
    from vllm.multimodal.media import ImageMediaIO, MediaConnector

    class GuardedConnector(MediaConnector):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, connection=connection, **options)

        async def load_from_url_async(self, url: str, media_io: Any, **options: Any) -> Any:
            if rules.image_max_bytes is not None and isinstance(media_io, ImageMediaIO):
                media_io.get_max_bytes = lambda: (
                    rules.image_max_bytes
                )  # vLLM has no bound of its own for images
            try:
                return await super().load_from_url_async(url, media_io, **options)
            except (VLLMValidationError, VLLMUnprocessableEntityError, ValueError, MemoryError):
                raise
            except Exception as error:  # decoders raise anything for a broken file
                raise _wrong(f"the media cannot be read: {error or type(error).__name__}") from error

        def _load_file_url(self, url_spec: Any, media_io: Any) -> Any:
            if self.allowed_local_media_path is None:
                raise _wrong(f"this server reads no files of its own machine; {_INSTEAD}")
            return super()._load_file_url(url_spec, media_io)

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
