"""Which requests share cached prefixes: those of one tenant with one ``cache_salt`` of the client's own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.upstream import Answer, Upstream
from workers.engines.base import EngineRequest, Final
from workers.engines.openai.engine import OpenAIEngine
from workers.engines.salt import salt_of, with_salt
from workers.engines.settings import OpenAISettings

TENANTS = st.text("abAZ09_-", min_size=1, max_size=64) | st.just("default")
OWN = st.none() | st.text(min_size=1, max_size=200)
FORBIDDEN = "@/\\\0"
"""What vLLM's salts may not have."""
COMPLETIONS = "/v1/completions"


@given(TENANTS, OWN, TENANTS, OWN)
def test_two_requests_have_one_salt_only_if_tenant_and_own_salt_are_the_same(
    one: str, own: str | None, other: str, others: str | None
) -> None:
    mine, theirs = salt_of(one, own), salt_of(other, others)
    assert (mine == theirs) is ((one, own) == (other, others))
    if mine is not None:
        assert 1 <= len(mine) <= 128
        assert not set(mine) & set(FORBIDDEN)


@given(TENANTS, TENANTS)
def test_no_salt_of_the_clients_makes_another_tenants(one: str, other: str) -> None:
    theirs = salt_of(other, None)
    assert theirs is None or one == other or salt_of(one, theirs) != theirs


def test_without_tenants_requests_stay_as_they_are() -> None:
    raw = b'{"prompt":"a prompt of some length","seed":123456789012345678901}'
    assert with_salt(raw, "default") == (raw, False)
    assert with_salt(raw, None) == (raw, False)
    with_own = raw[:-1] + b',"cache_salt":"s"}'
    assert with_salt(with_own, None) == (with_own, False)


@pytest.mark.parametrize("own", ["", 5, ["s"]])
def test_a_wrong_salt_is_the_engines_to_refuse(own: Any) -> None:
    raw = json.dumps({"prompt": "a prompt of some length", "cache_salt": own}).encode()
    assert with_salt(raw, "alice") == (raw, False)


@pytest.mark.parametrize("raw", [b"", b"{", b"[1, 2]", b'{"cache_salt": }', b"\xff{}"])
def test_a_body_that_is_no_object_stays_as_it_is(raw: bytes) -> None:
    assert with_salt(raw, "alice") == (raw, False)


@pytest.mark.parametrize("name", ["cache_salt", "cache_\\u0073alt"])
def test_the_clients_own_salt_becomes_a_part_of_ours(name: str) -> None:
    raw = b'{"prompt":"a prompt of some length","%b":"s"}' % name.encode()
    body, ours = with_salt(raw, "alice")
    assert json.loads(body)["cache_salt"] == salt_of("alice", "s")
    assert not ours


class Scene(Upstream):
    """A server that refuses ``cache_salt``, or not, and an engine before it."""

    def __init__(self, *, refuses: bool) -> None:
        self.salts = list[Any]()
        self._refuses = refuses
        super().__init__(self._take)
        self.engine = OpenAIEngine(OpenAISettings(self.url))

    def _take(self, body: dict[str, Any]) -> Answer:
        salt = body.get("cache_salt")
        self.salts.append(salt)
        if salt is not None and (self._refuses or not salt):
            message = b'{"error": {"message": "Unrecognized request argument supplied: cache_salt"}}'
            return 400, "application/json", message
        return 200, "application/json", b'{"choices": []}'

    async def run(self, tenant: str | None, **fields: Any) -> Final:
        raw = json.dumps({"model": "upstream", "prompt": "a long prompt for all", **fields}).encode()
        return await self.engine.run(EngineRequest("job", COMPLETIONS, raw, tenant=tenant), lambda _: None)


@pytest.mark.asyncio
async def test_a_server_behind_an_engine_gets_the_salt() -> None:
    with Scene(refuses=False) as scene:
        await scene.engine.start()
        for tenant in ("alice", "bob", "default", None):
            assert (await scene.run(tenant)).status == 200
        await scene.run("alice", cache_salt="s")
        assert scene.salts == ["alice:", "bob:", None, None, salt_of("alice", "s")]
        await scene.engine.stop()


@pytest.mark.asyncio
async def test_a_server_that_refuses_the_salt_gets_none() -> None:
    with Scene(refuses=True) as scene, capture_logs() as logs:
        await scene.engine.start()
        assert (await scene.run("alice", cache_salt="s")).status == 400
        assert (await scene.run("alice")).status == 200
        assert (await scene.run("bob")).status == 200
        assert scene.salts == [salt_of("alice", "s"), "alice:", None, None]
        assert [line["event"] for line in logs if "salt" in line["event"]] == ["engine_salt_refused"]
        await scene.engine.stop()


@pytest.mark.asyncio
async def test_no_client_can_turn_the_salts_off() -> None:
    """By a salt that is refused, or by words that look like a refusal."""
    with Scene(refuses=False) as scene:
        await scene.engine.start()
        assert (await scene.run("bob", cache_salt="")).status == 400
        await scene.run("alice")
        assert scene.salts == ["", "alice:"]
        await scene.engine.stop()
