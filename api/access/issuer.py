"""The keys of an OIDC issuer: found by its discovery document, and fetched again when they may have changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
import jwt
import msgspec
import structlog

from api.http.addresses import is_safe_url

log = structlog.get_logger(__name__)

ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})
"""Signatures by private keys alone: with a shared secret, or none, anybody who knows the public key could sign."""

REFRESH_S: Final = 300.0
"""Age of the keys at which they are fetched again, while the ones at hand are used."""

RETRY_S: Final = 10.0
"""Least time between two fetches: tokens with made-up key ids cause no more."""

_TIMEOUT_S: Final = 5.0
_MOST_BYTES: Final = 512 * 1024
_RSA_BITS: Final = 2048


class IssuerUnavailableError(Exception):
    """The issuer's keys are not known, or were not confirmed for too long."""


class Issuer:
    """The public keys of an issuer (OpenID Connect Discovery 1.0, section 4; RFC 7517).

    Args:
        url: as tokens name it (``iss``).
        max_stale_s: how long keys may be used after the issuer last confirmed them.

    Attributes:
        generation: raised when the keys have changed.
    """

    def __init__(self, url: str, max_stale_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self.generation = 0
        self._max_stale_s, self._clock = max_stale_s, clock
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, headers={"accept": "application/json"})
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._sources: Any = None
        self._confirmed_at = self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    def key(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Return a key that is at hand; None: there is none of this id, or for too long nobody confirmed it.

        A token need not name its key if there is only one for its algorithm.
        """
        age_s = self._clock() - self._confirmed_at
        if age_s > REFRESH_S and self._may_try():
            self._begin()
        if age_s > self._max_stale_s:
            return None
        if key_id is None:
            fitting = [key for key in self._keys.values() if key.algorithm_name == algorithm]
            return fitting[0] if len(fitting) == 1 else None
        found = self._keys.get(key_id)
        return found if found is not None and found.algorithm_name == algorithm else None

    async def fetch(self) -> None:
        """Fetch the keys, unless that was tried a moment ago.

        Raises:
            IssuerUnavailableError: there are none to use.
        """
        if self._fetching is not None or self._may_try():
            await asyncio.shield(self._begin())
        if self._clock() - self._confirmed_at > self._max_stale_s:
            raise IssuerUnavailableError

    async def aclose(self) -> None:
        """End a fetch under way and close the connections."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        await self._client.aclose()

    def _may_try(self) -> bool:
        return self._fetching is None and self._clock() - self._tried_at >= RETRY_S

    def _begin(self) -> asyncio.Task[None]:
        """Return the fetch under way, or begin one."""
        if self._fetching is None:
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._fetch(), name="issuer")
        return self._fetching

    async def _fetch(self) -> None:
        began = self._clock()
        try:
            async with asyncio.timeout(2 * _TIMEOUT_S):
                document = await self._get(self.url.rstrip("/") + "/.well-known/openid-configuration")
                if document.get("issuer") != self.url:
                    raise ValueError("its discovery document names another issuer")
                place = document.get("jwks_uri")
                if not (isinstance(place, str) and is_safe_url(place)):
                    raise ValueError("its discovery document names no safe place of its keys")
                sources = (await self._get(place)).get("keys")
            if not isinstance(sources, list):
                raise TypeError("it has no list of keys")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, TypeError, ValueError) as error:
            log.warning("issuer_unavailable", issuer=self.url, error=str(error) or type(error).__name__)
        else:
            if sources != self._sources:
                self._sources, self._keys = sources, _keys_of(sources)
                self.generation += 1
                log.info("issuer_keys", issuer=self.url, keys=sorted(self._keys))
            self._confirmed_at = began
        finally:
            self._fetching = None

    async def _get(self, url: str) -> dict[str, Any]:
        async with self._client.stream("GET", url) as answer:
            if answer.status_code != httpx.codes.OK:
                raise ValueError(f"{url} answers {answer.status_code}")
            body = b""
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _MOST_BYTES:
                    raise ValueError(f"{url} answers with more than {_MOST_BYTES} bytes")
        return msgspec.json.decode(body, type=dict[str, Any])


def _keys_of(sources: list[Any]) -> dict[str, jwt.PyJWK]:
    """Return the keys that may sign tokens, by their ids; one without an id gets its place as one."""
    keys = {}
    for place, source in enumerate(sources):
        if not isinstance(source, dict) or source.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(source)
        except (jwt.PyJWTError, KeyError, TypeError, ValueError):
            continue  # of a kind that we do not take
        weak = key.algorithm_name == "RS256" and key.key.key_size < _RSA_BITS
        if key.algorithm_name in ALGORITHMS and not weak:
            keys[str(source.get("kid", f"#{place}"))] = key
    return keys
