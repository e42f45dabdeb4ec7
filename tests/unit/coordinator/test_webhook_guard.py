"""Requests to addresses that clients chose: where they go, what they follow, how long they take."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp.abc import AbstractResolver, ResolveResult

from coordinator.webhooks.guard import KEPT_BYTES, READ_BYTES, Guard
from coordinator.webhooks.names import SystemNames
from jobs.addresses import NOTHING, Allowed
from tests.certificates import Authority
from tests.receivers import Receiver, Reply
from tests.support import eventually

pytestmark = pytest.mark.asyncio

LOOPBACK = Allowed.parse(["127.0.0.0/8"])


class Names(AbstractResolver):
    """Answers each look-up with the next of its lists of addresses, and the last one from then on."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        addresses = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        flags = socket.AI_NUMERICHOST
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=flags,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        return


def guard(
    allowed: Allowed = LOOPBACK, *, names: AbstractResolver | None = None, timeout_s: float = 5.0
) -> Guard:
    return Guard(allowed, allow_http=True, timeout_s=timeout_s, connections=4, names=names)


@pytest_asyncio.fixture
async def open_guard() -> AsyncIterator[Guard]:
    one = guard()
    yield one
    await one.aclose()


async def test_a_request_arrives_and_its_answer_is_kept(open_guard: Guard) -> None:
    with Receiver(lambda _: Reply(202, {"Retry-After": "7"}, b"thanks")) as receiver:
        answer = await open_guard.post(f"{receiver.url}/a%2Fb?c=d%20e", b"{}", {"webhook-id": "evt_1"})
    assert (answer.status, answer.body, answer.retry_after, answer.refused) == (202, "thanks", "7", False)
    (got,) = receiver.got
    assert (got.path, got.body, got.id) == ("/a%2Fb?c=d%20e", b"{}", "evt_1")
    assert "cookie" not in got.headers


async def test_requests_share_a_connection(open_guard: Guard) -> None:
    with Receiver() as receiver:
        for _ in range(3):
            assert (await open_guard.post(receiver.url, b"{}", {})).status == 204
    assert len({got.peer for got in receiver.got}) == 1


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::ffff:7f00:1]"]
)
async def test_nothing_reaches_this_machine(host: str) -> None:
    one = guard(NOTHING)
    with Receiver() as receiver:
        answer = await one.post(f"http://{host}:{receiver.port}/", b"{}", {})
    await one.aclose()
    assert (answer.status, receiver.got) == (None, [])


async def test_every_address_of_a_name_is_checked() -> None:
    with Receiver() as receiver:
        for addresses in (["127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["::1"], ["::ffff:127.0.0.1"]):
            one = guard(NOTHING, names=Names(addresses))
            answer = await one.post(f"http://hooks.example:{receiver.port}/", b"{}", {})
            await one.aclose()
            assert answer.refused, addresses
            assert "loopback" in answer.body
    assert not receiver.got


async def test_a_name_that_changes_its_address_reaches_nothing() -> None:
    """DNS rebinding: the connection goes to the address that was checked, and the name is asked for once."""
    names = Names(["127.0.0.2"], ["127.0.0.1"])
    one = guard(Allowed.parse(["127.0.0.2"]), names=names)
    with Receiver() as receiver:  # it listens on 127.0.0.1 alone
        first = await one.post(f"http://hooks.example:{receiver.port}/", b"{}", {})
        assert names.asked == 1
        second = await one.post(f"http://hooks.example:{receiver.port}/", b"{}", {})
    await one.aclose()
    assert (first.status, first.refused) == (None, False)  # nobody listens on the checked address
    assert (second.status, second.refused) == (None, True)
    assert not receiver.got


async def test_a_redirect_is_an_answer(open_guard: Guard) -> None:
    with (
        Receiver() as target,
        Receiver(lambda _: Reply(302, {"Location": f"{target.url}/inner"})) as receiver,
    ):
        answer = await open_guard.post(receiver.url, b"{}", {})
        assert (answer.status, target.got) == (302, [])


async def test_no_proxy_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as proxy, Receiver() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        one = guard()
        assert (await one.post(receiver.url, b"{}", {})).status == 204
        await one.aclose()
        assert not proxy.got


async def test_no_cookie_is_kept(open_guard: Guard) -> None:
    with Receiver(lambda _: Reply(200, {"Set-Cookie": "a=b"})) as receiver:
        for _ in range(2):
            await open_guard.post(receiver.url, b"{}", {})
        assert "cookie" not in receiver.got[1].headers


async def test_the_time_of_a_try_is_bounded() -> None:
    one = guard(timeout_s=1.0)
    over = threading.Event()
    with Receiver(lambda _: Reply() if over.wait(60) else Reply(500)) as receiver:
        answer = await one.post(receiver.url, b"{}", {})
        over.set()
    await one.aclose()
    assert (answer.status, answer.body) == (None, "the receiver did not answer in time")


async def test_the_size_of_an_answer_is_bounded(open_guard: Guard) -> None:
    with Receiver(lambda _: Reply(500, body=b"x" * 50 * READ_BYTES)) as receiver:
        answer = await open_guard.post(receiver.url, b"{}", {})
        assert (answer.status, answer.body) == (500, "x" * KEPT_BYTES)
        await open_guard.post(receiver.url, b"{}", {})
        assert len({got.peer for got in receiver.got}) == 2  # the first connection was closed


async def test_an_answer_is_not_unpacked(open_guard: Guard) -> None:
    packed = gzip.compress(b"0" * 10_000_000)
    with Receiver(lambda _: Reply(200, {"Content-Encoding": "gzip"}, packed)) as receiver:
        answer = await open_guard.post(receiver.url, b"{}", {})
    assert answer.status == 200
    assert len(answer.body) <= KEPT_BYTES


async def test_tls_checks_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with Receiver(certificate=authority.sign("server")) as receiver:
        for name, status in (("localhost", 204), ("hooks.example", None)):
            one = guard(names=Names(["127.0.0.1"]))
            answer = await one.post(f"https://{name}:{receiver.port}/", b"{}", {})
            await one.aclose()
            assert answer.status == status, answer.body
        assert len(receiver.got) == 1


async def test_what_is_no_server_is_no_failure_of_ours(open_guard: Guard) -> None:
    with Receiver() as receiver:
        port = receiver.port
    for url in (f"http://127.0.0.1:{port}/", "http://no.such.name.invalid/", f"https://127.0.0.1:{port}/"):
        answer = await open_guard.post(url, b"{}", {})
        assert (answer.status, answer.refused) == (None, False)
        assert answer.body.startswith("the receiver cannot be reached")


async def test_a_name_server_that_never_answers_holds_no_other_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, answer = threading.Semaphore(0), threading.Event()

    def hang(*_: object) -> list[object]:
        asked.release()
        answer.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    names = SystemNames(40)
    lookups = [asyncio.ensure_future(names.resolve(f"h{n}.example", 443)) for n in range(40)]
    await eventually(lambda: asked._value == 40)
    assert await asyncio.to_thread(answer.is_set) is False
    answer.set()
    assert await asyncio.gather(*lookups) == [[]] * 40
    await names.close()
