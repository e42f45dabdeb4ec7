"""The id of a request, the same in the answer's ``x-request-id`` and in each log line about it."""

from __future__ import annotations

import re
import secrets

from starlette.types import Scope

from api.http.asgi import Header, header

NAME = b"x-request-id"

_KEY = "penstock.request_id"
_SANE = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch
"""Form of a client's own id. Anything else could forge a line of a log."""


def new_request_id() -> str:
    """Make an id, in OpenAI's form."""
    return "req_" + secrets.token_hex(16)


def request_id_of(scope: Scope) -> str:
    """Return a request's id: the client's own, if it is of a sane form, or a new one. Each further call returns the same."""
    known: str | None = scope.get(_KEY)
    if known is None:
        given = header(scope, NAME)
        known = given.decode() if given is not None and _SANE(given) else new_request_id()
        scope[_KEY] = known
    return known


def id_header(request_id: str) -> Header:
    """Return the header that names a request's id in its answer."""
    return NAME, request_id.encode()
