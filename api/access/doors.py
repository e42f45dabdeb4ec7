"""From the credentials of a request to who calls."""

from __future__ import annotations

from api.access.issuer import IssuerUnavailableError
from api.access.known_keys import KnownKeys, Verdict, Wrong
from api.access.oidc import Tokens, is_token
from api.access.throttle import Throttle
from api.http.errors import RATE_LIMIT, SERVER, ApiError
from api.http.handlers import unavailable
from broker.db.errors import StoreUnavailableError
from jobs.access import Identity

RETRY_ISSUER_S = 10


class Doors:
    """Lets callers in, by an API key or a token of an OIDC issuer.

    Args:
        keys: judges keys.
        throttle: bounds the failed tries.
        tokens: judges tokens; None: there is no issuer.
    """

    def __init__(self, keys: KnownKeys, throttle: Throttle, tokens: Tokens | None = None) -> None:
        self.keys, self._throttle, self.tokens = keys, throttle, tokens

    def recall(self, token: str) -> Identity | None:
        """Return who calls, if this process knows; None: :meth:`identify` finds out."""
        if self.tokens is None or not is_token(token):
            return self.keys.recall(token)
        verdict = self.tokens.recall(token)
        return verdict if isinstance(verdict, Identity) else None

    async def identify(self, token: str, address: str) -> Identity:
        """Find out who calls.

        Args:
            token: what the request has as a bearer token.
            address: where the request comes from.

        Raises:
            ApiError: 401, it lets nobody in; 429, too many tries from there failed; 503, Redis or the issuer cannot say.
        """
        tokens = self.tokens if is_token(token) else None
        # Who had a right key a moment ago may go on: an attacker behind the same proxy must not keep them out.
        free = tokens is None and self.keys.has_seen(token)
        wait_s = 0 if free else self._throttle.wait_s(address)
        if wait_s:
            message = f"too many calls from this address had a wrong API key; retry in {wait_s} s with the right one"
            raise ApiError(429, message, "too_many_attempts", type_=RATE_LIMIT, retry_after_s=wait_s)
        verdict = await (self._looked_up(token) if tokens is None else _identified(tokens, token))
        if isinstance(verdict, Identity):
            return verdict
        if verdict is Wrong.KEY:  # otherwise it was right, so nobody guessed
            self._throttle.failed(address)
        raise _refusal(verdict)

    async def _looked_up(self, token: str) -> Verdict:
        try:
            return await self.keys.look_up(token)
        except StoreUnavailableError as error:
            raise unavailable(error) from error


async def _identified(tokens: Tokens, token: str) -> Verdict:
    try:
        return await tokens.identify(token)
    except IssuerUnavailableError:
        message = (
            "the issuer of this token cannot be reached, so nobody can say whether it is right; retry shortly"
        )
        raise ApiError(
            503, message, "issuer_unavailable", type_=SERVER, retry_after_s=RETRY_ISSUER_S
        ) from None


def no_key() -> ApiError:
    """Make the 401 for a request without credentials."""
    message = "You didn't provide an API key; send it as a bearer token: Authorization: Bearer YOUR_KEY"
    return _unauthorized(message)


def _refusal(wrong: Wrong) -> ApiError:
    if wrong is Wrong.EXPIRED:
        return _unauthorized("this API key or token has expired; get another")
    if wrong is Wrong.CLAIMS:
        return _unauthorized(
            "this token names no tenant; its issuer must put one into it (setting oidc_tenant_claim)"
        )
    return _unauthorized("Incorrect API key provided; check the header Authorization: Bearer YOUR_KEY")


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, "invalid_api_key", headers={"www-authenticate": "Bearer"})
