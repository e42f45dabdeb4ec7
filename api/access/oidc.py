"""Tokens of an OIDC issuer as a second way in: who calls is what the token says, as long as the issuer signed it for us."""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from api.access.issuer import ALGORITHMS, Issuer
from api.access.known_keys import Verdict, Wrong
from jobs.access import Identity, Scope

SCOPE_PREFIX: Final = "penstock:"
"""Scopes in a token may have this before their names, so that they are nobody else's."""

_MOST_BYTES: Final = 8192
_MOST: Final = 10_000
_TENANT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SUBJECT: Final = re.compile(r"[A-Za-z0-9._@|:+-]{1,128}")


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must say.

    Attributes:
        audience: whom it is for: this server.
        tenant_claim, scopes_claim: where it names the tenant and the scopes.
        leeway_s: how far clocks may differ.
    """

    audience: str
    tenant_claim: str = "tenant"
    scopes_claim: str = "scope"
    leeway_s: float = 30.0


class Tokens:
    """Judges tokens by the issuer's keys, and remembers those that were right.

    Args:
        issuer: whose tokens they are.
        rules: what they must say.
    """

    def __init__(self, issuer: Issuer, rules: TokenRules) -> None:
        self._issuer, self._rules = issuer, rules
        self._known: OrderedDict[bytes, tuple[int, float, Identity]] = OrderedDict()

    def recall(self, token: str) -> Verdict | None:
        """Judge a token with the keys at hand; None: its key is not among them."""
        digest = hashlib.sha256(token.encode("latin-1")).digest()
        generation, ends_at, identity = self._known.get(digest, (-1, 0.0, None))
        if identity is None or generation != self._issuer.generation or time.time() >= ends_at:
            return self._judge(token, digest)
        header = jwt.get_unverified_header(token)  # it was right once, so it can be read
        if self._issuer.key(header.get("kid"), header["alg"]) is None:
            return None
        self._known.move_to_end(digest)
        return identity

    async def identify(self, token: str) -> Verdict:
        """Judge a token; if its key is not at hand, the issuer is asked.

        Raises:
            IssuerUnavailableError: the issuer's keys are not known.
        """
        verdict = self.recall(token)
        if verdict is None:
            await self._issuer.fetch()
            verdict = self.recall(token)
        return Wrong.KEY if verdict is None else verdict

    async def aclose(self) -> None:
        """Close the connections to the issuer."""
        await self._issuer.aclose()

    def _judge(self, token: str, digest: bytes) -> Verdict | None:
        try:
            claims = self._claims(token)
        except jwt.ExpiredSignatureError:
            return Wrong.EXPIRED
        except (jwt.PyJWTError, KeyError, TypeError, ValueError):
            return Wrong.KEY
        if claims is None:
            return None
        identity = self._identity(claims)
        if identity is None:
            return Wrong.CLAIMS
        ends_at = float(claims["exp"]) + self._rules.leeway_s
        self._known[digest] = self._issuer.generation, ends_at, identity
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return identity

    def _claims(self, token: str) -> Mapping[str, Any] | None:
        """Return what a token says; None: its key is not at hand.

        Raises:
            jwt.PyJWTError, KeyError, TypeError, ValueError: it is wrong.
        """
        if len(token) > _MOST_BYTES:
            raise ValueError("too long")
        header = jwt.get_unverified_header(token)
        if header["alg"] not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError
        key = self._issuer.key(header.get("kid"), header["alg"])
        if key is None:
            return None
        return jwt.decode(
            token,
            key,
            algorithms=[header["alg"]],
            audience=self._rules.audience,
            issuer=self._issuer.url,
            leeway=self._rules.leeway_s,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )

    def _identity(self, claims: Mapping[str, Any]) -> Identity | None:
        """Return whom a token names; None: no tenant that can be one."""
        tenant = claims.get(self._rules.tenant_claim)
        if not (isinstance(tenant, str) and _TENANT.fullmatch(tenant)):
            return None
        told = claims.get(self._rules.scopes_claim, "")
        words = told.split() if isinstance(told, str) else told if isinstance(told, list) else []
        names = {word.removeprefix(SCOPE_PREFIX) for word in words if isinstance(word, str)}
        return Identity(
            tenant, frozenset(scope for scope in Scope if scope.value in names), _key_of(claims["sub"])
        )


def is_token(text: str) -> bool:
    """Whether a text has the form of a signed token (RFC 7519)."""
    return text.startswith("eyJ") and text.count(".") == 2


def _key_of(subject: str) -> str:
    """Return the name of a subject for usage and audit; one with unusual letters goes by its digest."""
    if _SUBJECT.fullmatch(subject):
        return f"oidc:{subject}"
    return f"oidc:{hashlib.sha256(subject.encode('utf-8', 'replace')).hexdigest()[:32]}"
