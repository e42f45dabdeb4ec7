"""From the credentials of a request to who calls."""

from __future__ import annotations

from api.access.known_keys import KnownKeys, Verdict, Wrong
from api.access.throttle import Throttle
from api.http.errors import RATE_LIMIT, ApiError
from api.http.handlers import unavailable
from broker.db.errors import StoreUnavailableError
from jobs.access import ApiKey, Identity, given_key


class Doors:
    """Lets callers in by an API key.

    Args:
        keys: judges them.
        throttle: bounds the failed tries.
    """

    def __init__(self, keys: KnownKeys, throttle: Throttle) -> None:
        self.keys, self._throttle = keys, throttle

    def recall(self, token: str) -> Identity | None:
        """Return who calls, if this process knows; None: :meth:`identify` finds out."""
        key = self._key(token)
        verdict = None if key is None else self.keys.recall(key)
        return verdict if isinstance(verdict, Identity) else None

    async def identify(self, token: str, address: str) -> Identity:
        """Find out who calls.

        Args:
            token: what the request has as a bearer token.
            address: where the request comes from.

        Raises:
            ApiError: 401, it lets nobody in; 429, too many tries from there failed; 503, Redis cannot say.
        """
        key = self._key(token)
        # Who had a right key a moment ago may go on: an attacker behind the same proxy must not keep them out.
        wait_s = 0 if key is not None and self.keys.has_seen(key) else self._throttle.wait_s(address)
        if wait_s:
            message = f"too many calls from this address had a wrong API key; retry in {wait_s} s with the right one"
            raise ApiError(429, message, "too_many_attempts", type_=RATE_LIMIT, retry_after_s=wait_s)
        verdict = Wrong.KEY if key is None else await self._verdict(key)
        if isinstance(verdict, Identity):
            return verdict
        self._throttle.failed(address)
        raise _refusal(verdict)

    async def _verdict(self, key: ApiKey) -> Verdict:
        verdict = self.keys.recall(key)
        if isinstance(verdict, Identity):
            return verdict
        try:  # also if it was wrong a moment ago: it may be the secret of a rotation just made
            return await self.keys.look_up(key)
        except StoreUnavailableError as error:
            raise unavailable(error) from error

    def _key(self, token: str) -> ApiKey | None:
        """Read a key; None: it has not the form of one, so that no look-up is needed."""
        key = ApiKey.parse(token)
        if key is None and token and self.keys.taken_over is not False:
            return given_key(token)  # those of the setting api_keys have any form
        return key


def no_key() -> ApiError:
    """Make the 401 for a request without credentials."""
    message = "You didn't provide an API key; send it as a bearer token: Authorization: Bearer YOUR_KEY"
    return _unauthorized(message)


def _refusal(wrong: Wrong) -> ApiError:
    if wrong is Wrong.EXPIRED:
        return _unauthorized("this API key has expired; ask an administrator for another")
    return _unauthorized("Incorrect API key provided; check the header Authorization: Bearer YOUR_KEY")


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, "invalid_api_key", headers={"www-authenticate": "Bearer"})
