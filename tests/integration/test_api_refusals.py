"""What is refused at the door: by status, code and field, and nothing of it in the queue."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from redis import Redis

from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.puppet import MODEL, Puppet
from tests.support import new_id

pytestmark = pytest.mark.asyncio

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": MODEL, "prompt": "hi"}
_CHAT, _TEXT, _EMBED, _JOBS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/jobs"
LONG = "x" * 404  # 101 tokens at least; the model has 100


def _raw(path: str, body: bytes, code: str) -> tuple[str, bytes, int, str, str | None]:
    return path, body, 400, code, None


RAW = [
    _raw(path, body, code)
    for path in (_CHAT, _JOBS)
    for body, code in (
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"a": nope}', "invalid_json"),
        (b'{"a": NaN}', "invalid_json"),
        (b'{"a": 1} x', "invalid_json"),
        (b'{"a": "\\ud800"}', "invalid_json"),
        (b'{"a":' + b"[" * 3000 + b"]" * 3, "invalid_json"),
        (b'{"a": "\xff"}', "invalid_encoding"),
        (b'{"\xff": 1}', "invalid_encoding"),
        ('{"a": "é"}'.encode("utf-16"), "invalid_encoding"),
        (b"[]", "invalid_request"),
        (b"null", "invalid_request"),
    )
]

FIELDS: list[tuple[str, dict[str, Any], int, str, str | None]] = [
    (_CHAT, CHAT | {"messages": "hi"}, 400, "invalid_request", "messages"),
    (_CHAT, CHAT | {"messages": []}, 400, "invalid_request", "messages"),
    (_CHAT, CHAT | {"messages": ["hi"]}, 400, "invalid_request", "messages"),
    (_CHAT, CHAT | {"messages": [{"content": "hi"}]}, 400, "invalid_request", "messages"),
    (_CHAT, CHAT | {"messages": [{"role": "user", "content": 1}]}, 400, "invalid_request", "messages"),
    (_CHAT, {"model": MODEL}, 400, "invalid_request", "messages"),
    (_CHAT, CHAT | {"temperature": "hot"}, 400, "invalid_request", "temperature"),
    (_CHAT, CHAT | {"max_tokens": 1.5}, 400, "invalid_request", "max_tokens"),
    (_CHAT, CHAT | {"max_tokens": [1]}, 400, "invalid_request", "max_tokens"),
    (_CHAT, CHAT | {"n": {}}, 400, "invalid_request", "n"),
    (_CHAT, CHAT | {"stream": "perhaps"}, 400, "invalid_request", "stream"),
    (_CHAT, CHAT | {"stream_options": True}, 400, "invalid_request", "stream_options"),
    (_CHAT, CHAT | {"stop": [1]}, 400, "invalid_request", "stop"),
    (_CHAT, CHAT | {"seed": 2**70}, 400, "invalid_request", "seed"),
    (_CHAT, CHAT | {"logprobs": 5}, 400, "invalid_request", "logprobs"),
    (_CHAT, CHAT | {"tools": {}}, 400, "invalid_request", "tools"),
    (_CHAT, CHAT | {"tools": [{"type": "function"}]}, 400, "invalid_request", "tools"),
    (_CHAT, CHAT | {"response_format": "json"}, 400, "invalid_request", "response_format"),
    (_CHAT, CHAT | {"model": None}, 400, "invalid_request", "model"),
    (_CHAT, CHAT | {"model": 5}, 400, "invalid_request", "model"),
    (_CHAT, CHAT | {"model": "none"}, 404, "model_not_found", "model"),
    (
        _CHAT,
        CHAT | {"messages": [{"role": "user", "content": LONG}]},
        400,
        "context_length_exceeded",
        "messages",
    ),
    (
        _CHAT,
        CHAT | {"messages": [{"role": "user", "content": [{"type": "text", "text": LONG}]}]},
        400,
        "context_length_exceeded",
        "messages",
    ),
    (_TEXT, {"model": MODEL}, 400, "invalid_request", "prompt"),
    (_TEXT, TEXT | {"prompt": {}}, 400, "invalid_request", "prompt"),
    (_TEXT, TEXT | {"prompt": [-1]}, 400, "invalid_request", "prompt"),
    (_TEXT, TEXT | {"prompt": LONG}, 400, "context_length_exceeded", "prompt"),
    (_TEXT, TEXT | {"prompt": ["short", LONG]}, 400, "context_length_exceeded", "prompt"),
    (_TEXT, TEXT | {"prompt": [1] * 101}, 400, "context_length_exceeded", "prompt"),
    (_EMBED, {"model": MODEL, "input": "hi"}, 400, "unsupported", "model"),
    (_JOBS, {}, 400, "invalid_request", "input"),
    (_JOBS, {"input": "hi"}, 400, "invalid_request", "input"),
    (_JOBS, {"input": CHAT, "inputs": 1}, 400, "invalid_request", "inputs"),
    (_JOBS, {"input": CHAT, "endpoint": "/v1/images"}, 400, "invalid_request", "endpoint"),
    (_JOBS, {"input": CHAT, "endpoint": _TEXT}, 400, "invalid_request", "prompt"),
    (_JOBS, {"input": CHAT, "priority": "realtime"}, 400, "invalid_request", "priority"),
    (_JOBS, {"input": CHAT, "model": "other"}, 400, "invalid_request", "model"),
    (_JOBS, {"input": CHAT | {"model": "none"}}, 404, "model_not_found", "model"),
    (_JOBS, {"input": CHAT | {"n": "x"}}, 400, "invalid_request", "n"),
    (_JOBS, {"input": CHAT, "metadata": {"k": 1}}, 400, "invalid_request", "metadata"),
    (_JOBS, {"input": CHAT, "metadata": {"k" * 65: "v"}}, 400, "invalid_request", "metadata"),
    (_JOBS, {"input": CHAT, "metadata": {"k": "v" * 513}}, 400, "invalid_request", "metadata"),
    (_JOBS, {"input": CHAT, "metadata": {f"{n}": "" for n in range(17)}}, 400, "invalid_request", "metadata"),
    (_JOBS, {"input": CHAT, "expires_in_s": 0}, 400, "invalid_request", "expires_in_s"),
    (_JOBS, {"input": CHAT, "max_attempts": 11}, 400, "invalid_request", "max_attempts"),
    (_JOBS + "?wait=301", {"input": CHAT}, 400, "invalid_request", "wait"),
    (_JOBS + "?wait=nan", {"input": CHAT}, 400, "invalid_request", "wait"),
]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    RAW + [(path, json.dumps(body).encode(), *rest) for path, body, *rest in FIELDS],
)
async def test_a_wrong_body_never_enters_the_queue(
    shared: tuple[httpx.AsyncClient, Puppet],
    path: str,
    body: bytes,
    status: int,
    code: str,
    param: str | None,
) -> None:
    http, puppet = shared
    got = await http.post(path, content=body)
    error = got.json()["error"]
    assert (got.status_code, error["code"], error["param"]) == (status, code, param), error
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert await puppet.waiting() == 0


# One api for all of these: none of them leaves anything behind.
@pytest.fixture(scope="module")
def one_api(valkey: EmbeddedServer) -> Iterator[ApiServer]:
    settings = BrokerSettings(redis_url=valkey.url, namespace="refusals")
    with ApiServer(settings, max_body_bytes=4096) as server:
        yield server
    with Redis.from_url(valkey.url) as client:
        for key in client.scan_iter("refusals*"):
            client.delete(key)


@pytest_asyncio.fixture
async def shared(one_api: ApiServer) -> AsyncIterator[tuple[httpx.AsyncClient, Puppet]]:
    store = JobStore(connect(one_api.settings.redis_url), one_api.settings)
    puppet = Puppet(store)
    await puppet.live()
    async with one_api.client() as client:
        yield client, puppet
    await store.aclose()


async def test_a_body_that_is_too_large(shared: tuple[httpx.AsyncClient, Puppet]) -> None:
    http, puppet = shared

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 1000

    for path in (_CHAT, _JOBS):
        for content in (b"x" * 5000, chunks()):
            got = await http.post(path, content=content)
            assert (got.status_code, got.json()["error"]["code"]) == (413, "body_too_large")
    assert await puppet.waiting() == 0


async def test_addresses_and_methods_that_are_not_there(shared: tuple[httpx.AsyncClient, Puppet]) -> None:
    http, _ = shared
    for path in ("/v1/none", "/v1/jobs/"):
        got = await http.get(path)
        assert (got.status_code, got.json()["error"]["code"]) == (404, "not_found")
    for method, path, allow in (
        ("GET", _TEXT, "POST"),
        ("PUT", _CHAT, "GET, POST"),
        ("PUT", _JOBS, "GET, POST"),
        ("DELETE", f"{_JOBS}/{new_id()}", "GET, PATCH"),
    ):
        got = await http.request(method, path)
        assert (got.status_code, got.json()["error"]["code"]) == (405, "method_not_allowed")
        assert got.headers["allow"] == allow


async def test_a_refusal_needs_no_thread(shared: tuple[httpx.AsyncClient, Puppet]) -> None:
    http, _ = shared
    before = set(threading.enumerate())
    for path, body in ((_CHAT, CHAT | {"n": "x"}), ("/v1/none", {}), ("/v1/dead/retry", {"limit": "x"})):
        assert 400 <= (await http.post(path, json=body)).status_code < 500
    assert not [thread.name for thread in {*threading.enumerate()} - before if "AnyIO" in thread.name]


async def test_unknown_openai_fields_are_passed_on(shared: tuple[httpx.AsyncClient, Puppet]) -> None:
    http, puppet = shared
    got = await http.post(
        _JOBS, json={"input": CHAT | {"vendor_field": [1], "temperature": "0.5", "n": None}}
    )
    assert got.status_code == 202
    await puppet.succeed(await puppet.take())


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": 5}],
        [{"type": "text", "text": []}, "more"],
        [{"type": "text", "text": {"x": 1}}],
    ],
)
async def test_the_engine_judges_the_parts_of_a_message(
    shared: tuple[httpx.AsyncClient, Puppet], content: list[Any]
) -> None:
    http, puppet = shared
    body = {"model": MODEL, "messages": [{"role": "system", "content": content}]}
    assert (await http.post(_JOBS, json={"input": body})).status_code == 202
    await puppet.succeed(await puppet.take())


@pytest.mark.parametrize(
    ("asked", "streams"),
    [("false", False), ("0", False), ("no", False), (0, False), (None, False), ("true", True), (1, True)],
)
async def test_a_stream_is_what_the_engine_reads_as_one(
    shared: tuple[httpx.AsyncClient, Puppet], asked: Any, streams: bool
) -> None:
    http, puppet = shared
    got = await http.post(_JOBS, json={"input": CHAT | {"stream": asked}})
    assert (got.status_code, got.json()["stream"]) == (202, streams)
    await puppet.succeed(await puppet.take())


async def test_a_full_queue(broker_settings: BrokerSettings, puppet: Puppet) -> None:
    with ApiServer(broker_settings, queue_max=2) as server:
        async with server.client() as http:
            for _ in range(2):
                assert (await http.post(_JOBS, json={"input": CHAT})).status_code == 202
            got = await http.post(_JOBS, json={"input": CHAT})
            assert (got.status_code, got.json()["error"]["code"]) == (429, "queue_full")
            assert got.json()["error"]["type"] == "rate_limit_error"
            assert 1 <= int(got.headers["retry-after"]) <= 120
            assert await puppet.waiting() == 2


async def test_a_slow_body_that_never_ends_holds_nothing(one_api: ApiServer) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", one_api.settings.port)
    writer.write(f"POST {_CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with one_api.client() as http:
        assert (await http.get("/health/live")).status_code == 200
