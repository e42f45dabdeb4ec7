"""Whether a request comes from the console's own pages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from starlette.types import Scope

from api.http.asgi import header
from api.http.errors import ApiError

MARK: Final = b"x-penstock-console"
"""A header that no page of another origin can send without asking first."""

SAFE: Final = frozenset({"GET", "HEAD"})

_SHOWN = 100


def check_own(scope: Scope, origins: Collection[str], *, marked: bool = True) -> None:
    """Let a request pass that one of the console's pages sent, and nothing else.

    Where a browser sends ``Sec-Fetch-Site``, that decides: the browser knows the page's address, also behind a proxy that
    writes another ``Host``. Browsers send it over https and to this machine only. Elsewhere ``Origin`` and ``Host`` decide.

    Args:
        scope: the request's.
        origins: further origins whose pages are ours, as browsers write them.
        marked: one that changes something must have the header :data:`MARK`. A plain form cannot.

    Raises:
        ApiError: 403.
    """
    site, origin, host = (_told(scope, name) for name in (b"sec-fetch-site", b"origin", b"host"))
    own = origin is not None and (
        origin in origins or (host is not None and origin.partition("://")[2] == host)
    )
    if site is not None:
        # `none`: the user typed the address or opened a bookmark, which no page can do.
        passes = site == "same-origin" or (site == "none" and (own or origin is None))
    else:
        passes = own or origin is None
    if scope["method"] not in SAFE:
        # A browser names the origin of every request that changes something.
        passes = passes and (own or site == "same-origin") and not (marked and header(scope, MARK) is None)
    if not passes:
        raise ApiError(403, _why(site, origin, host, own=own), "origin_not_allowed")


def is_secure(scope: Scope) -> bool:
    """Whether the browser speaks TLS, to us or to a proxy before us. A browser's ``Origin`` says so."""
    return scope.get("scheme") == "https" or (header(scope, b"origin") or b"").startswith(b"https://")


def _told(scope: Scope, name: bytes) -> str | None:
    value = header(scope, name)
    return None if value is None else value.decode("latin-1").lower()


def _why(site: str | None, origin: str | None, host: str | None, *, own: bool) -> str:
    if site is None and origin is not None and not own:
        return (
            f"only the console's own pages may use this address; this page is of {origin[:_SHOWN]!r}, and the server was "
            f"called as {(host or '')[:_SHOWN]!r}; if both are this server, have the proxy before it pass the header Host "
            "on (nginx: proxy_set_header Host $http_host), or add the page's origin to the setting allowed_origins"
        )
    return "only the console's own pages may use this address; programs use the addresses under /v1"
