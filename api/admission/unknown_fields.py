"""Telling a caller of fields that no endpoint of this kind has: mostly a typing error, such as ``max_token``.

Such a request runs, because engines have fields of their own. Its caller sees the names in a header or, of a job, in its
warnings; with the header ``x-penstock-strict: 1`` it is refused, as OpenAI does.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final
from urllib.parse import quote

from starlette.types import Scope

from api.http.asgi import Header, asks
from api.http.errors import ApiError, invalid
from jobs.batch_model import Batch
from jobs.known_fields import KNOWN_FIELDS, no_such_field

MOST: Final = 8
"""Unknown names of one request that its answer lists: the first ones."""

MOST_BYTES: Final = 1024
"""Most bytes of the header: a proxy has a few KB for all headers of an answer."""

STRICT_HEADER: Final = b"x-penstock-strict"
"""Asks that a request with an unknown field is refused."""

_LENGTH: Final = 64
_NOTED: Final = "penstock.unknown_fields"


def note_unknown(scope: Scope, endpoint: str, request: Mapping[str, Any], prefix: str = "") -> None:
    """Note the unknown fields of a request, for :func:`unknown_header` and :func:`unknown_warnings`.

    Args:
        scope: the HTTP request's.
        endpoint: whose body the request is.
        request: the parsed body.
        prefix: of the fields' names, if the body is a part of another one: ``input.``.

    Raises:
        ApiError: 400 ``unknown_parameter``, there is one and the caller asked for a strict check.
    """
    known = KNOWN_FIELDS[endpoint]
    if known.issuperset(request):
        return
    names = [name[:_LENGTH] for name in islice((name for name in request if name not in known), MOST)]
    if asks(scope, STRICT_HEADER):
        raise _refused(endpoint, names[0], prefix)
    scope[_NOTED] = [(endpoint, name, prefix + name) for name in names]


def unknown_header(scope: Scope) -> list[Header]:
    """Return the header that names the unknown fields of a request, as many as it has room for; empty: it has none."""
    noted = scope.get(_NOTED)
    if noted is None:
        return []
    names = ", ".join(quote(name, safe="[]") for _, name, _ in noted).encode()
    if len(names) > MOST_BYTES:  # the first one fits: no character takes more than 12 bytes
        names = names[: MOST_BYTES + len(b", ")].rpartition(b", ")[0]
    return [(b"x-penstock-unknown-fields", names)]


def unknown_warnings(scope: Scope) -> list[dict[str, Any]]:
    """Return a warning for each unknown field of a request."""
    return [_warning(endpoint, name, param) for endpoint, name, param in scope.get(_NOTED, ())]


def batch_warnings(batch: Batch) -> list[dict[str, Any]]:
    """Return a warning for each unknown field of a batch's rows, with the first line that has it."""
    return [
        _warning(batch.endpoint, name, f"body.{name}") | {"line": line} for name, line in batch.unknown_fields
    ]


def _warning(endpoint: str, name: str, param: str) -> dict[str, Any]:
    message = f"{no_such_field(endpoint, name)}. It is passed on, and most engines ignore it"
    return {"code": "unknown_field", "message": message, "param": param}


def _refused(endpoint: str, name: str, prefix: str) -> ApiError:
    return invalid(f"Unknown parameter: {no_such_field(endpoint, name)}", prefix + name, "unknown_parameter")
