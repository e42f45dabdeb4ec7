"""Tokens of an OIDC issuer: which let whom in, and what happens while the issuer is away."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import jwt
import pytest
import pytest_asyncio

from api.access import issuer as issuers
from api.access.issuer import RETRY_S, Issuer, IssuerUnavailableError
from api.access.known_keys import Wrong
from api.access.oidc import TokenRules, Tokens, is_token
from jobs.access import Identity, Scope
from tests.oidcissuer import AUDIENCE, OidcIssuer
from tests.support import eventually

pytestmark = pytest.mark.asyncio

STALE_S = 100.0


@pytest.fixture
def issuer() -> Iterator[OidcIssuer]:
    with OidcIssuer() as running:
        running.add_key("k1", "RS256")
        yield running


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def tokens(issuer: OidcIssuer, clock: Clock) -> AsyncIterator[Tokens]:
    found = Tokens(Issuer(issuer.url, STALE_S, clock), TokenRules(AUDIENCE))
    yield found
    await found.aclose()


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_token_names_its_tenant_scopes_and_subject(
    issuer: OidcIssuer, tokens: Tokens, algorithm: str
) -> None:
    issuer.add_key("k2", algorithm)
    token = issuer.token("k2")
    assert is_token(token)
    expected = Identity("alice", frozenset({Scope.JOBS_READ, Scope.JOBS_WRITE}), "oidc:ann")
    assert tokens.recall(token) is None
    assert await tokens.identify(token) == expected
    asked = len(issuer.asked)
    for _ in range(3):
        assert tokens.recall(token) == expected
    assert tokens.recall(issuer.token("k1")) == expected, "its key is at hand"
    assert len(issuer.asked) == asked == 2


@pytest.mark.parametrize(
    ("told", "scopes"),
    [
        ("jobs:read files openid", {Scope.JOBS_READ, Scope.FILES}),
        (["penstock:admin", 7, None], {Scope.ADMIN}),
        ("", set()),
        (None, set()),
        ({"jobs:read": True}, set()),
    ],
)
async def test_scopes_are_words_or_a_list(
    issuer: OidcIssuer, tokens: Tokens, told: Any, scopes: set[Scope]
) -> None:
    identity = await tokens.identify(issuer.token("k1", scope=told))
    assert isinstance(identity, Identity)
    assert identity.scopes == scopes


@pytest.mark.parametrize(
    ("subject", "key"),
    [
        ("ann@example.org", "oidc:ann@example.org"),
        ("auth0|1", "oidc:auth0|1"),
        ("a b\n", None),
        ("x" * 200, None),
    ],
)
async def test_a_subject_is_named_in_one_word(
    issuer: OidcIssuer, tokens: Tokens, subject: str, key: str | None
) -> None:
    identity = await tokens.identify(issuer.token("k1", sub=subject))
    assert isinstance(identity, Identity)
    assert identity.key is not None
    assert key is None or identity.key == key
    assert len(identity.key.split()) == 1
    assert len(identity.key) <= 133


def _b64(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _unsigned(issuer: OidcIssuer) -> str:
    claims = jwt.decode(issuer.token("k1"), options={"verify_signature": False})
    return f"{_b64({'alg': 'none', 'kid': 'k1'})}.{_b64(claims)}."


def _by_public_key(issuer: OidcIssuer) -> str:
    """Sign with the public key as if it were a shared secret (CVE-2016-10555)."""
    (public,) = issuer.documents["/realm/keys"]["keys"]
    claims = jwt.decode(issuer.token("k1"), options={"verify_signature": False})
    signed = f"{_b64({'alg': 'HS256', 'kid': 'k1'})}.{_b64(claims)}"
    digest = hmac.digest(json.dumps(public).encode(), signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def _of_another_key(issuer: OidcIssuer) -> str:
    other = OidcIssuer()
    other.add_key("k1", "RS256")
    other._server.server_close()
    return other.token("k1", iss=issuer.url)


NOW = int(time.time())


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_unsigned, Wrong.KEY),
        (_by_public_key, Wrong.KEY),
        (_of_another_key, Wrong.KEY),
        (lambda issuer: issuer.token("k1")[:-8] + "AAAAAAAA", Wrong.KEY),
        (lambda issuer: issuer.token("k1", aud="another"), Wrong.KEY),
        (lambda issuer: issuer.token("k1", aud=None), Wrong.KEY),
        (lambda issuer: issuer.token("k1", iss="http://127.0.0.1:1"), Wrong.KEY),
        (lambda issuer: issuer.token("k1", sub=None), Wrong.KEY),
        (lambda issuer: issuer.token("k1", exp=None), Wrong.KEY),
        (lambda issuer: issuer.token("k1", exp="soon"), Wrong.KEY),
        (lambda issuer: issuer.token("k1", nbf=NOW + 3600), Wrong.KEY),
        (lambda issuer: issuer.token("k1", headers={"kid": "unknown"}), Wrong.KEY),
        (lambda issuer: issuer.token("k1", pad="x" * 9000), Wrong.KEY),
        (lambda _: "eyJ.x.y", Wrong.KEY),
        (lambda _: "eyJ.é.y", Wrong.KEY),
        (lambda issuer: issuer.token("k1", exp=NOW - 60), Wrong.EXPIRED),
        (lambda issuer: issuer.token("k1", tenant=None), Wrong.CLAIMS),
        (lambda issuer: issuer.token("k1", tenant="a b"), Wrong.CLAIMS),
        (lambda issuer: issuer.token("k1", tenant=["alice"]), Wrong.CLAIMS),
    ],
)
async def test_a_wrong_token_lets_nobody_in(
    issuer: OidcIssuer, tokens: Tokens, make: Callable[[OidcIssuer], str], why: Wrong
) -> None:
    assert await tokens.identify(make(issuer)) is why


async def test_clocks_may_differ_by_the_leeway(issuer: OidcIssuer, tokens: Tokens) -> None:
    assert isinstance(await tokens.identify(issuer.token("k1", exp=int(time.time()) - 10)), Identity)


async def test_a_known_token_ends_with_its_time(
    issuer: OidcIssuer, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.token("k1")
    assert isinstance(await tokens.identify(token), Identity)
    later = time.time() + 700
    monkeypatch.setattr("api.access.oidc.time.time", lambda: later)
    monkeypatch.setattr("jwt.api_jwt.datetime", _At(later))
    assert tokens.recall(token) is Wrong.EXPIRED


class _At:
    """The part of datetime that PyJWT asks for the time."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self, tz: Any = None) -> Any:
        from datetime import datetime

        return datetime.fromtimestamp(self._now, tz)


async def test_a_new_key_is_fetched_but_made_up_ones_cause_no_flood(
    issuer: OidcIssuer, tokens: Tokens, clock: Clock
) -> None:
    assert isinstance(await tokens.identify(issuer.token("k1")), Identity)
    issuer.add_key("k2", "ES256")
    for number in range(20):
        assert await tokens.identify(issuer.token("k1", headers={"kid": str(number)})) is Wrong.KEY
    assert issuer.asked.count("/realm/keys") == 1
    clock.now += RETRY_S
    assert isinstance(await tokens.identify(issuer.token("k2")), Identity)
    assert issuer.asked.count("/realm/keys") == 2


async def test_a_withdrawn_key_is_right_no_more(issuer: OidcIssuer, tokens: Tokens, clock: Clock) -> None:
    token = issuer.token("k1")
    assert isinstance(await tokens.identify(token), Identity)
    issuer.add_key("k2", "RS256")
    issuer.drop_key("k1")
    clock.now += RETRY_S
    assert isinstance(await tokens.identify(issuer.token("k2")), Identity)
    assert await tokens.identify(token) is Wrong.KEY


async def test_while_the_issuer_is_away_its_keys_are_used_for_a_bounded_time(
    issuer: OidcIssuer, tokens: Tokens, clock: Clock
) -> None:
    token = issuer.token("k1")
    assert isinstance(await tokens.identify(token), Identity)
    issuer.away = True
    clock.now += STALE_S - 1
    assert isinstance(await tokens.identify(token), Identity)
    clock.now += 2
    with pytest.raises(IssuerUnavailableError):
        await tokens.identify(token)
    issuer.away = False
    clock.now += RETRY_S
    assert isinstance(await tokens.identify(token), Identity)


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://other.example"},
        {"jwks_uri": "http://keys.example/keys"},
        {"jwks_uri": None},
        {"jwks_uri": "file:///etc/passwd"},
    ],
)
async def test_a_strange_discovery_document_is_not_believed(
    issuer: OidcIssuer, tokens: Tokens, change: dict[str, Any]
) -> None:
    issuer.documents["/realm/.well-known/openid-configuration"] |= change
    with pytest.raises(IssuerUnavailableError):
        await tokens.identify(issuer.token("k1"))
    assert "/realm/keys" not in issuer.asked


@pytest.mark.parametrize(
    "served", [b"", b"[1]", b"{}", b'{"keys": 1}', b"x" * (issuers._MOST_BYTES + 1), None]
)
async def test_strange_keys_are_not_believed(
    issuer: OidcIssuer, tokens: Tokens, served: bytes | None
) -> None:
    issuer.documents["/realm/keys"] = served
    with pytest.raises(IssuerUnavailableError):
        await tokens.identify(issuer.token("k1"))


async def test_keys_that_may_not_sign_are_left_out(issuer: OidcIssuer, tokens: Tokens) -> None:
    shared = base64.urlsafe_b64encode(b"s" * 32).decode().rstrip("=")
    issuer.add_key("enc", "RS256", use="enc")
    issuer.documents["/realm/keys"]["keys"] += [
        {"kty": "oct", "k": shared, "kid": "shared", "alg": "HS256"},
        {"kty": "RSA", "kid": "broken"},
        "no key",
    ]
    assert isinstance(await tokens.identify(issuer.token("k1")), Identity)
    assert await tokens.identify(issuer.token("enc")) is Wrong.KEY
    claims = jwt.decode(issuer.token("k1"), options={"verify_signature": False})
    assert await tokens.identify(jwt.encode(claims, b"s" * 32, "HS256", {"kid": "shared"})) is Wrong.KEY


async def test_a_token_without_a_key_id_needs_the_only_key(
    issuer: OidcIssuer, tokens: Tokens, clock: Clock
) -> None:
    token = issuer.token("k1", headers={})
    assert isinstance(await tokens.identify(token), Identity)
    issuer.add_key("k2", "RS256")
    clock.now += STALE_S + 1
    assert await tokens.identify(token) is Wrong.KEY


async def test_keys_are_fetched_again_behind_the_requests(issuer: OidcIssuer, clock: Clock) -> None:
    tokens = Tokens(Issuer(issuer.url, 10 * issuers.REFRESH_S, clock), TokenRules(AUDIENCE))
    token = issuer.token("k1")
    assert isinstance(await tokens.identify(token), Identity)
    issuer.drop_key("k1")
    clock.now += issuers.REFRESH_S + 1
    assert isinstance(tokens.recall(token), Identity), "nobody waits"
    await eventually(lambda: tokens.recall(token) is None)
    await tokens.aclose()
