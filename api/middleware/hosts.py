"""Whose pages may call the api: the headers ``Host`` and ``Origin``, which a browser sets and a page cannot change.

A keyless api on a laptop is open to every program on it, and so to every web page in its browser. A page can send a POST to
any address (its ``Origin`` names the page), and a page whose own name is made to resolve to 127.0.0.1 can read the
answers too (DNS rebinding: its ``Host`` is that name).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from functools import lru_cache

from prometheus_client import Counter
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.errors import ApiError, invalid

ANY = "*"

_PRIVATE = (".localhost", ".local", ".internal", ".home.arpa", ".svc")
"""Ends of names that the public DNS does not have (RFC 6761, 6762 and 8375, ICANN's .internal, Kubernetes' services)."""

_KNOWN = 1024
"""Values of a header whose verdict is remembered."""


class Hosts:
    """Refuses requests that give a foreign ``Host`` or ``Origin`` (plain ASGI). A request without them passes.

    Programs send no ``Origin``; of the browsers' requests, those of the api's own pages pass.

    Args:
        hosts: further names of this server. Names that no foreign page can have always pass: addresses, names without a
            dot, and those under ``.localhost``, ``.local``, ``.internal``, ``.home.arpa`` and ``.svc``.
            ``*``: every name passes.
        origins: origins of web pages that may call the api, as browsers write them: ``https://chat.example``, in lower
            case. ``*``: every page may.
        count: answered errors by code.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str], origins: Collection[str], count: Counter
    ) -> None:
        self._app = app
        self._count = count
        self._hosts = frozenset(name.lower() for name in hosts)
        self._origins = frozenset(origins)
        self._serves = lru_cache(_KNOWN)(self._serves_host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or refuse."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        self._count.labels(refusal.code).inc()
        await refusal.response()(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        host = origin = None
        for name, value in scope["headers"]:
            if name == b"host":
                if host is not None:
                    return invalid("the request has several Host headers; send one (RFC 9112 section 3.2)")
                host = value
            elif name == b"origin":
                origin = value
        if host is not None and not self._serves(host):
            return _foreign_host(host)
        if origin is not None and not self._welcomes(origin, host):
            return _foreign_origin(origin)
        return None

    def _serves_host(self, host: bytes) -> bool:
        name = _name(host.decode("latin-1").lower())
        return ANY in self._hosts or name in self._hosts or is_private(name)

    def _welcomes(self, origin: bytes, host: bytes | None) -> bool:
        given = origin.decode("latin-1").lower()
        if ANY in self._origins or given in self._origins:
            return True
        # Whatever its scheme: a proxy may have taken TLS off.
        return host is not None and given.partition("://")[2] == host.decode("latin-1").lower()


def is_private(name: str) -> bool:
    """Return whether no foreign web page can have this name, because the public DNS has no such name.

    Args:
        name: in lower case, without a port.
    """
    return "." not in name or name.endswith(_PRIVATE) or is_address(name)


def is_address(name: str) -> bool:
    """Return whether this is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name(host: str) -> str:
    """Return a host without its port, an IPv6 address without brackets, a name without the root's dot."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _foreign_host(host: bytes) -> ApiError:
    name = _name(host.decode("latin-1"))[:100]
    message = (
        f"this server does not answer to the name {name!r}, because a web page could have made that name point here; "
        "call it by its address, or add the name to the setting allowed_hosts"
    )
    return ApiError(403, message, "host_not_allowed")


def _foreign_origin(origin: bytes) -> ApiError:
    page = origin.decode("latin-1")[:100]
    message = (
        f"web pages of {page!r} may not call this server; add their origin to the setting allowed_origins, or call from a "
        "program; if they are this server's own, have the proxy before it pass the header Host on"
    )
    return ApiError(403, message, "origin_not_allowed")
