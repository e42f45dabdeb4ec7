"""Bodies of any size: what one of them costs the process is bounded, and the others are answered meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from api.admission.request_bodies import check_body
from api.http.bodies import SMALL_BYTES
from api.http.body import CONTROL_BYTES
from jobs.endpoints import RESPONSES
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.namespaces import new_namespace
from tests.puppet import FACTS, MODEL, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

LIMIT = 1024 * 1024
_CHAT, _TEXT, _JOBS = "/v1/chat/completions", "/v1/completions", "/v1/jobs"
LARGE = b'{"input": {"model": "puppet", "messages": [{"role": "user", "content": "hi"}], "vendor": "%b"}}'


@pytest.fixture(scope="module")
def shared_api(valkey: EmbeddedServer) -> Iterator[ApiServer]:
    given = {
        "max_body_bytes": LIMIT,
        "max_body_items": 2000,
        "bodies_memory_bytes": LIMIT,
        "read_timeout_s": 2.0,
    }
    with ApiServer(new_namespace(valkey), **given) as server:
        yield server


@pytest_asyncio.fixture
async def http(api: ApiServer, puppet: Puppet) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as client:
        yield client


async def test_a_large_body_reaches_the_engine_as_it_came(http: httpx.AsyncClient, puppet: Puppet) -> None:
    text = LARGE % ('é[{,\\\\\\"'.encode() * (SMALL_BYTES // 8))
    for content in (text, _pieces(text)):
        assert (await http.post(_JOBS, content=content)).status_code == 202
        claim = await puppet.take()
        assert json.loads(claim.body) == json.loads(text)["input"]
        await puppet.succeed(claim)


async def _pieces(text: bytes) -> AsyncIterator[bytes]:
    """Send a body without telling its length."""
    for start in range(0, len(text), 50_000):
        yield text[start : start + 50_000]


@pytest.mark.parametrize("path", [_CHAT, _TEXT, _JOBS])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"prompt": [' + b"[]," * 2000 + b"[]]}", "invalid_request"),
        (b'{"prompt": [' + b"-1," * 100_000 + b"1]}", "invalid_request"),
        (b"{" + b'"a":1,' * 2000 + b'"b":1}', "invalid_request"),
        (b'{"input": {"messages": [' + b'{"role": ""},' * 2000 + b"{}]}}", "invalid_request"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "invalid_json"),
        (b"[" * 200, "invalid_json"),
        (b'{"a":"' + b"\\" * 200_001 + b'"}', "invalid_json"),
        (b'{"a":"' + b"\xff" * 200_000 + b'"}', "invalid_encoding"),
    ],
)
async def test_the_worst_bodies_are_refused(
    http: httpx.AsyncClient, puppet: Puppet, path: str, body: bytes, code: str
) -> None:
    got = await http.post(path, content=body)
    assert (got.status_code, got.json()["error"]["code"]) == (400, code), got.text
    assert await puppet.waiting() == 0


async def test_the_limit_of_items_is_named(http: httpx.AsyncClient) -> None:
    got = await http.post(_TEXT, json={"model": MODEL, "prompt": [1] * 2001})
    assert "more than 2000 items (setting max_body_items)" in got.json()["error"]["message"]


async def test_bodies_that_are_only_announced_hold_nobody_up(
    api: ApiServer, http: httpx.AsyncClient, puppet: Puppet
) -> None:
    head = f"POST {_JOBS} HTTP/1.1\r\nhost: x\r\n"
    links = []
    for length in (f"content-length: {LIMIT}", "transfer-encoding: chunked"):
        for _ in range(4):
            link = await asyncio.open_connection("127.0.0.1", api.settings.port)
            chunk = "{" if "length" in length else "1\r\n{\r\n"
            link[1].write(f"{head}{length}\r\n\r\n{chunk}".encode())
            links.append(link)
    assert (await http.post(_JOBS, content=LARGE % (b"x" * SMALL_BYTES))).status_code == 202
    await puppet.succeed(await puppet.take())
    for reader, writer in links:  # only now their time is over
        assert b" 408 " in await reader.readline()
        answer = await reader.read()
        assert b'"body_timeout"' in answer
        assert b"x-should-retry: false" in answer
        writer.close()


async def test_a_client_that_leaves_gives_its_memory_back(
    api: ApiServer, http: httpx.AsyncClient, puppet: Puppet
) -> None:
    for _ in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", api.settings.port)
        writer.write(f"POST {_JOBS} HTTP/1.1\r\nhost: x\r\ncontent-length: {LIMIT}\r\n\r\n{{".encode())
        await writer.drain()
        writer.close()
    assert (await http.post(_JOBS, content=LARGE % (b"x" * SMALL_BYTES))).status_code == 202
    await puppet.succeed(await puppet.take())


async def test_a_call_that_waits_holds_no_body(
    api: ApiServer, http: httpx.AsyncClient, puppet: Puppet
) -> None:
    """The memory is for one such body, and three of them wait for their ends."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "vendor": "x" * (LIMIT - 1000)}
    calls = [asyncio.create_task(http.post(_CHAT, json=body)) for _ in range(2)]
    calls.append(asyncio.create_task(http.post(f"{_JOBS}?wait=20", json={"input": body})))

    async def all_wait() -> bool:
        return await puppet.waiting() == 3

    await eventually(all_wait)
    for _ in calls:
        await puppet.succeed(await puppet.take())
    assert [(await call).status_code for call in calls] == [200, 200, 200]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", f"{_JOBS}/job_01a2298a56077b5b84c193214f5394ed"),
        ("POST", "/v1/dead/retry"),
        ("POST", "/v1/workers/w/drain"),
        ("POST", "/v1/batches"),
    ],
)
async def test_a_call_without_a_prompt_takes_a_small_body(
    http: httpx.AsyncClient, method: str, path: str
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"x": "'
        yield b"x" * CONTROL_BYTES
        yield b'"}'

    contents: list[Any] = [b'{"x": "' + b"x" * CONTROL_BYTES + b'"}', pieces()]
    for content in contents:
        got = await http.request(method, path, content=content)
        assert (got.status_code, got.json()["error"]["code"]) == (413, "body_too_large")
    for content in (b'{"a":' * 200 + b"1" + b"}" * 200, b"", b"{", b"[]"):
        got = await http.request(method, path, content=content)
        assert got.status_code in ({400, 404} if path.endswith("drain") else {400}), got.text
    got = await http.request(method, path, json={"colour": "red"})
    assert (got.status_code, got.json()["error"]["param"]) == (400, "colour")


async def test_a_large_response_is_made_off_the_loop(
    api: ApiServer, http: httpx.AsyncClient, puppet: Puppet
) -> None:
    """Whether it waits or has ended: while the thread for large bodies is held up, so is its answer, and no other."""
    await puppet.live(facts={**FACTS, "endpoints": [RESPONSES], "max_model_len": LIMIT})
    large = "x" * SMALL_BYTES
    asked = {"model": MODEL, "input": "hi", "background": True}
    first = await eventually(lambda: _made(http, {**asked, "instructions": large}))
    path, other = f"{RESPONSES}/{first}", await _made(http, asked)
    for state in ("queued", "completed"):
        gate = threading.Event()
        held = api.services.bodies.run(SMALL_BYTES + 1, gate.wait)
        holding = asyncio.run_coroutine_threadsafe(held, api.loop)
        try:
            poll = asyncio.create_task(http.get(path))
            assert (await http.get(f"{RESPONSES}/{other}")).status_code == 200
            assert not (await asyncio.wait({poll}, timeout=0.2))[0]
        finally:
            gate.set()
        answer = (await poll).json()
        assert (answer["status"], answer["instructions"]) == (state, large)
        assert await asyncio.wrap_future(holding)
        if state == "queued":
            claim = await puppet.take()
            done = {"object": "response", "status": "completed", "output": [], "instructions": large}
            await puppet.succeed(claim, json.dumps(done).encode())
    await puppet.succeed(await puppet.take())


async def test_the_items_before_a_response_are_checked_off_the_loop(
    http: httpx.AsyncClient, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body that asks for them is light, and as long as they are: nearly all of it is white space."""
    await puppet.live(facts={**FACTS, "endpoints": [RESPONSES], "max_model_len": LIMIT})
    asked = {"model": MODEL, "input": "x" * SMALL_BYTES * 2, "background": True}
    first = await eventually(lambda: _made(http, asked))
    claim = await puppet.take()
    await puppet.succeed(claim, b'{"object": "response", "status": "completed", "output": []}')
    threads = []

    def watched(endpoint: str, request: dict[str, Any]) -> bool:
        threads.append(threading.current_thread().name)
        return check_body(endpoint, request)

    monkeypatch.setattr("api.admission.admit.check_body", watched)
    more = json.dumps({"model": MODEL, "input": "more", "previous_response_id": first, "background": True})
    padded = more.replace("{", "{" + " " * SMALL_BYTES * 3).encode()
    assert (await http.post(RESPONSES, content=padded)).status_code == 200
    job = b'{"endpoint": "%b", "input": %b}' % (RESPONSES.encode(), padded)
    assert (await http.post(_JOBS, content=job)).status_code == 202
    assert threads == ["bodies_0"] * 2


async def _made(http: httpx.AsyncClient, body: dict[str, Any]) -> str | None:
    """Ask for a response; None: this api does not know yet what the worker serves."""
    name: str | None = (await http.post(RESPONSES, json=body)).json().get("id")
    return name
