"""Telling a caller of fields that no endpoint of this kind has: mostly a typing error, such as ``max_token``.

Such a request runs, because engines have fields of their own. Its caller sees the names in a header or, of a job, in its
warnings; with the header ``x-penstock-strict: 1`` it is refused, as OpenAI does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, Final
from urllib.parse import quote

from starlette.types import Scope

from api.admission.known_fields import KNOWN_FIELDS
from api.http.asgi import Header, asks
from api.http.errors import ApiError, invalid, meant

MOST: Final = 8
"""Names that a caller is told."""

MOST_BYTES: Final = 1024
"""Bytes of the header: a proxy has a few KB for all of an answer's headers."""

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
    if asks(scope, b"x-penstock-strict"):
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
    return [
        {
            "code": "unknown_field",
            "message": f"{_sentence(endpoint, name)}. It is passed on, and most engines ignore it",
            "param": param,
        }
        for endpoint, name, param in scope.get(_NOTED, ())
    ]


def _refused(endpoint: str, name: str, prefix: str) -> ApiError:
    return invalid(f"Unknown parameter: {_sentence(endpoint, name)}", prefix + name, "unknown_parameter")


@lru_cache(maxsize=1024)
def _sentence(endpoint: str, name: str) -> str:
    return f"{endpoint} has no field {name!r}{meant(name, KNOWN_FIELDS[endpoint])}"
