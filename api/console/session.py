"""Who is signed in: the credential itself, sealed in a cookie. There is no state, so nothing has to be deleted.

Every request checks the credential anew, so a revoked key ends its sessions. A cookie from another server, or one that was
changed, opens nothing.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
import time
from collections.abc import Callable
from typing import Final

from starlette.requests import cookie_parser
from starlette.types import Scope

from api.http.asgi import header
from jobs.sealing import NONCE_BYTES, TAG_BYTES, DamagedError, Keyring, opened

COOKIE: Final = "penstock_console"
LONGEST_S: Final = 12 * 3600
"""A session ends after this time, whatever its credential allows."""

_COOKIE_BYTES = 3800
"""Browsers drop a cookie above 4096 bytes, its name and attributes included."""

_CONTEXT = b"penstock console session"


class TooLongError(Exception):
    """A credential does not fit into a cookie."""


class Sessions:
    """Seals credentials, and opens them again. Every api process with the same pepper opens what another one sealed.

    Args:
        pepper: the secret from which the key is derived.
        clock: Unix seconds.
    """

    def __init__(self, pepper: bytes, clock: Callable[[], float] = time.time) -> None:
        key = hmac.digest(pepper, _CONTEXT, "sha256")
        self._cipher = Keyring((("console", key),)).cipher("console", _CONTEXT)
        self._clock = clock

    def seal(self, credential: str) -> str:
        """Return a credential as a cookie's value.

        Raises:
            TooLongError: no browser would keep it.
        """
        told = json.dumps([credential, self._clock() + LONGEST_S]).encode()
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, told, _CONTEXT)).decode()
        if len(sealed) > _COOKIE_BYTES:
            raise TooLongError
        return sealed

    def open(self, value: str) -> str | None:
        """Return the credential in a cookie's value; None: it is too old, or not ours."""
        try:
            sealed = base64.b64decode(value, altchars=b"-_", validate=True)
            if len(sealed) <= NONCE_BYTES + TAG_BYTES:
                return None
            told = opened(self._cipher, sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _CONTEXT, "the session")
        except (binascii.Error, DamagedError, ValueError):
            return None
        credential, until = json.loads(told)
        return credential if self._clock() < until else None

    def of(self, scope: Scope) -> str | None:
        """Return the credential of a request's session; None: it has none."""
        given = header(scope, b"cookie")
        if given is None:
            return None
        # A browser also sends the cookies of other applications on this host. One that breaks the rules must not hide ours.
        value = cookie_parser(given.decode("latin-1")).get(COOKIE)
        return None if value is None else self.open(value)


def cookie(value: str, *, secure: bool) -> str:
    """Return the header ``Set-Cookie`` of a session; an empty value ends it.

    It names no path: a browser then sends it to the folder of the page that set it, ``/console``, also behind a proxy that
    puts a path before it.
    """
    age = LONGEST_S if value else 0
    parts = [f"{COOKIE}={value}", f"Max-Age={age}", "HttpOnly", "SameSite=Strict"]
    return "; ".join([*parts, "Secure"] if secure else parts)
