"""Whether a request comes from the console's own pages."""

from __future__ import annotations

from typing import Final

from starlette.types import Scope

from api.http.asgi import header
from api.http.errors import ApiError

MARK: Final = b"x-penstock-console"
"""A header that no page of another origin can send without asking first."""

SAFE: Final = frozenset({"GET", "HEAD"})


def check_own(scope: Scope, *, marked: bool = True) -> None:
    """Let a request pass that one of the console's pages sent, and nothing else.

    Args:
        scope: the request's.
        marked: one that changes something must have the header :data:`MARK`. A plain form cannot.

    Raises:
        ApiError: 403.
    """
    site, origin, host = (header(scope, name) for name in (b"sec-fetch-site", b"origin", b"host"))
    own = origin is not None and host is not None and origin.partition(b"://")[2].lower() == host.lower()
    # `none`: the user typed the address or opened a bookmark, which no page can do.
    foreign = site not in {None, b"same-origin", b"none"} or (origin is not None and not own)
    if scope["method"] not in SAFE:
        # A browser names the origin of every request that changes something. The site is missing on plain http.
        foreign = foreign or not (own or site == b"same-origin") or (marked and header(scope, MARK) is None)
    if foreign:
        message = "only the console's own pages may use this address; call the same path without /console/api"
        raise ApiError(403, message, "origin_not_allowed")


def is_secure(scope: Scope) -> bool:
    """Whether the browser speaks TLS, to us or to a proxy before us. A browser's ``Origin`` says so."""
    return scope.get("scheme") == "https" or (header(scope, b"origin") or b"").startswith(b"https://")
