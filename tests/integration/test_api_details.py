"""Details of OpenAI's surface: the ids of requests, the time that they took, since when a model is served."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import httpx
import pytest

from broker.settings import BrokerSettings
from jobs.stream_chunks import Frames, Head, Text
from tests.apiserver import ApiServer
from tests.puppet import FACTS, MODEL, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
HEAD = Head(
    ('{"id":"x","choices":[{"delta":{"role":"a"},"finish_reason":null,"token_ids":null}]}',),
    '{"id":"x","choices":[{"delta":{"content":',
    '},"finish_reason":null,"token_ids":null}]}',
)
CLOSING = '{"id":"x","choices":[{"delta":{"content":"!"},"finish_reason":"stop","stop_reason":null}]}'
OWN = re.compile(r"req_[0-9a-f]{32}")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/none"),
        ("GET", "/nowhere"),
        ("POST", CHAT),
        ("DELETE", "/health"),
        ("GET", "/health/live"),
    ],
)
async def test_every_answer_names_its_request(http: httpx.AsyncClient, method: str, path: str) -> None:
    first, second = await http.request(method, path), await http.request(method, path)
    ids = first.headers["x-request-id"], second.headers["x-request-id"]
    assert all(OWN.fullmatch(one) for one in ids)
    assert ids[0] != ids[1]
    assert ("openai-processing-ms" in first.headers) == path.startswith("/v1/")


async def test_a_client_may_name_its_request(http: httpx.AsyncClient) -> None:
    for sane in ("abc-1", "01HZ:7/x.y+z=@_", "a" * 128):
        got = await http.get("/v1/models", headers={"x-request-id": sane})
        assert got.headers["x-request-id"] == sane
    for other in ("", "a b", "a" * 129, "café", 'a"b'):
        got = await http.get("/v1/models", headers={b"x-request-id": other.encode()})
        assert OWN.fullmatch(got.headers["x-request-id"])


async def test_a_refusal_below_the_application_names_its_request(api: ApiServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.settings.port)
    writer.write(b"nonsense\r\n\r\n")
    answer = (await reader.read()).decode()
    writer.close()
    assert answer.startswith("HTTP/1.1 400")
    assert re.search(r"\r\nx-request-id: req_[0-9a-f]{32}\r\n", answer)


async def test_calls_say_how_long_they_took(http: httpx.AsyncClient, puppet: Puppet) -> None:
    asked = asyncio.create_task(http.post(CHAT, json=BODY))
    claim = await puppet.take()
    await asyncio.to_thread(time.sleep, 0.03)  # the answer takes at least so long
    await puppet.succeed(claim)
    assert int((await asked).headers["openai-processing-ms"]) >= 30


@pytest.mark.parametrize("path", ["/health", "/health/accepting", "/health/live", "/health/ready"])
async def test_a_balancer_may_ask_for_the_head_only(
    http: httpx.AsyncClient, puppet: Puppet, path: str
) -> None:
    async def ready() -> bool:
        return (await http.get(path)).status_code == 200

    await eventually(ready)
    got = await http.head(path)
    assert (got.status_code, got.content) == (200, b"")
    assert puppet.name


async def test_a_model_keeps_the_time_since_which_it_is_served(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    async def shown() -> int:
        found: int = (await http.get(f"/v1/models/{MODEL}")).json().get("created", 0)
        return found

    first = await eventually(shown)
    assert abs(first - time.time()) < 60
    key = puppet.store.keys("served")
    await puppet.store.client.hset(key, MODEL, first - 1000)
    await puppet.live(facts={**FACTS, "card": {"id": MODEL, "created": 77}})

    async def older() -> bool:
        return await shown() == first - 1000

    await eventually(older)
    (listed,) = (await http.get("/v1/models")).json()["data"]
    assert listed["created"] == first - 1000


async def test_strict_answers_have_the_specifications_members(
    broker_settings: BrokerSettings, puppet: Puppet
) -> None:
    with ApiServer(broker_settings, openai_strict=True) as api:
        async with api.client() as http:
            call = asyncio.create_task(http.post(CHAT, json=BODY))
            claim = await puppet.take()
            whole = {
                "id": "x",
                "kv_transfer_params": None,
                "choices": [{"message": {"content": "a"}, "token_ids": None}],
            }
            await puppet.succeed(claim, json.dumps(whole).encode())
            message = {"content": "a", "refusal": None, "annotations": []}
            assert (await call).json() == {"id": "x", "choices": [{"message": message, "logprobs": None}]}
            call = asyncio.create_task(http.post(CHAT, json=BODY | {"stream": True}))
            claim = await puppet.take()
            await puppet.say(claim, HEAD, Text("a"))
            await puppet.succeed(claim, tail=[Frames((CLOSING,))])
            *frames, done = [line[6:] for line in (await call).text.split("\n\n")[:-1]]
    assert done == "[DONE]"
    chunks = [json.loads(frame) for frame in frames]
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "a"},
        {"content": "a"},
        {"content": "!"},
    ]
    assert not any({"token_ids", "stop_reason"} & chunk["choices"][0].keys() for chunk in chunks)
    assert chunks[-1]["penstock"]["job_id"] == claim.id


async def test_a_bare_request_is_told_where_it_goes_in_a_job(http: httpx.AsyncClient, puppet: Puppet) -> None:
    refused = (await http.post("/v1/jobs", json=BODY)).json()["error"]
    assert refused["param"] == "input"
    assert '{"input": {"model": …, "messages": […]}}' in refused["message"]


async def test_unknown_fields_are_told_on_every_face(http: httpx.AsyncClient, puppet: Puppet) -> None:
    body = BODY | {"max_token": 3}
    calls: list[tuple[str, dict[str, Any], dict[str, str]]] = [
        (CHAT, body, {}),
        (CHAT, body | {"stream": True}, {"x-penstock-early-head": "1"}),
        ("/v1/completions", {"model": MODEL, "prompt": "hi", "max_token": 3}, {}),
    ]
    for path, sent, headers in calls:
        asked = asyncio.create_task(http.post(path, json=sent, headers=headers))
        await puppet.succeed(await puppet.take(), b'{"a":1}')
        got = await asked
        assert (got.status_code, got.headers["x-penstock-unknown-fields"]) == (200, "max_token"), path
        refused = await http.post(path, json=sent, headers=headers | {"x-penstock-strict": "1"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unknown_parameter")
        assert refused.json()["error"]["param"] == "max_token"
    job = (await http.post("/v1/jobs", json={"input": body})).json()
    (warning,) = job["warnings"]
    assert (warning["code"], warning["param"]) == ("unknown_field", "input.max_token")
    assert "did you mean 'max_tokens'?" in warning["message"]
    await puppet.succeed(await puppet.take())
    strict = await http.post("/v1/jobs", json={"input": body}, headers={"x-penstock-strict": "1"})
    assert (strict.status_code, strict.json()["error"]["param"]) == (400, "input.max_token")
    fine = asyncio.create_task(http.post(CHAT, json=BODY, headers={"x-penstock-strict": "1"}))
    await puppet.succeed(await puppet.take(), b'{"a":1}')
    assert "x-penstock-unknown-fields" not in (await fine).headers
