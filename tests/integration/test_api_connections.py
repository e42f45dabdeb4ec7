"""What one connection may take, on raw sockets: sizes, times, and how the refusals reach the client."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from broker.files import FileStore
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.batch_keys import file_key
from jobs.batch_model import File
from jobs.ids import FILE_PREFIX, make_id
from jobs.stream_chunks import Head, Text
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.namespaces import new_namespace
from tests.processes import ApiProcess
from tests.puppet import MODEL, Puppet
from tests.support import eventually, free_port, freeze

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
MIB = 1024 * 1024
PATIENCE_S = 20


@pytest.fixture(scope="module")
def shared_api(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    bounds = {
        "max_connections": 8,
        "max_head_bytes": 8192,
        "head_timeout_s": 1.0,
        "read_timeout_s": 1.0,
        "write_timeout_s": 1.0,
        "file_max_bytes": MIB,
        "files_url": str(tmp_path_factory.mktemp("files")),
    }
    with ApiServer(new_namespace(valkey), **bounds) as server:
        yield server


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *pieces: bytes) -> None:
        """Send, and do as most clients: look at no answer before all is sent."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(status.split()[1]), headers, body

    async def refusal(self) -> tuple[int, str]:
        """Read an error, and the end of the connection."""
        status, headers, body = await self.answer()
        assert headers["connection"] == "close"
        await self.ended()
        return status, json.loads(body)["error"]["code"]

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            assert await self.reader.read() == b""


@asynccontextmanager
async def connect(api: ApiServer | ApiProcess) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(api.url).port, limit=4 * MIB)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


def request(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: localhost", *headers, "", ""]).encode()


def post(path: str, body: bytes, *headers: str) -> bytes:
    return request(path, f"content-length: {len(body)}", *headers, method="POST") + body


async def idle(http: httpx.AsyncClient) -> bool:
    """Whether no request but this is in progress."""
    return "api_active_requests 1.0" in (await http.get("/metrics")).text


LIVE = request("/health/live")
FORM = b'--x\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'


@pytest.mark.parametrize(
    ("head", "refused"),
    [
        (request("/health/live?" + "x" * 9000), (414, "url_too_long")),
        (request("/" + "x" * 5000, "a: " + "b" * 5000), (414, "url_too_long")),
        (request("/health/live", "a: " + "b" * 9000), (431, "headers_too_large")),
        (request("/health/live", *(f"a{n}: b" for n in range(2000))), (431, "headers_too_large")),
        (b"GET /" + b"x" * 5 * MIB, (414, "url_too_long")),
        (b"GET / HTTP/1.1\r\na: " + b"x" * 5 * MIB, (431, "headers_too_large")),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * MIB, (431, "headers_too_large")),
        (b"\r\n" * MIB, (431, "headers_too_large")),
        (
            request("/v1/jobs", "transfer-encoding: chunked", method="POST") + b"0;" + b"x" * MIB,
            (431, "headers_too_large"),
        ),
        (
            request("/v1/jobs", "transfer-encoding: chunked", method="POST")
            + b"1\r\nx\r\n0\r\na: "
            + b"x" * MIB,
            (431, "headers_too_large"),
        ),
        (b"\x16\x03\x01\x02\x00\x01\x00", (400, "invalid_request")),  # TLS
        (b"GET http://[ HTTP/1.1\r\n\r\n", (400, "invalid_request")),
        (b"CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n", (400, "invalid_request")),
    ],
)
async def test_what_is_no_request(api: ApiServer, head: bytes, refused: tuple[int, str]) -> None:
    async with connect(api) as client:
        await client.send(head)
        assert await client.refusal() == refused
    async with connect(api) as client:
        await client.send(request("/health/live", "a: " + "b" * 8000))
        assert (await client.answer())[0] == 200


async def test_the_bound_holds_however_a_head_arrives(api: ApiServer) -> None:
    large = request("/health/live", "a: " + "b" * 9000)
    for at in (10, 4000, 8000, len(large) - 4):
        async with connect(api) as client:
            await client.send(large[:at])
            await asyncio.sleep(0.05)  # else both arrive as one
            await client.send(large[at:])
            assert await client.refusal() == (431, "headers_too_large")


async def test_a_head_that_does_not_arrive(api: ApiServer) -> None:
    async with connect(api) as silent, connect(api) as half, connect(api) as blank:
        await half.send(LIVE[:-3])
        await blank.send(b"\r\n")
        assert await half.refusal() == (408, "head_timeout")
        await silent.ended()
        await blank.ended()
    async with connect(api) as client:
        for _ in range(2):
            await client.send(LIVE)
            assert (await client.answer())[0] == 200
        await client.send(b"\r\n", LIVE[:-3])  # the time holds for every request of a connection
        assert await client.refusal() == (408, "head_timeout")


async def test_a_body_that_does_not_arrive(api: ApiServer, http: httpx.AsyncClient, puppet: Puppet) -> None:
    async with (
        connect(api) as stopped,
        connect(api) as chunked,
        connect(api) as upload,
        connect(api) as ignored,
    ):
        await stopped.send(post(CHAT, b"x" * 100)[:-1])
        await chunked.send(request("/v1/jobs", "transfer-encoding: chunked", method="POST"), b"1\r\n{\r\n")
        form = "content-type: multipart/form-data; boundary=x"
        await upload.send(post("/v1/files", FORM + b"x" * 100, form)[:-1])
        await ignored.send(post("/v1/none", b"x" * 100)[:-1])
        for client in (stopped, chunked, upload):
            assert await client.refusal() == (408, "body_timeout")
        assert (await ignored.answer())[0] == 404
        await ignored.ended()
    await eventually(lambda: idle(http))
    assert await puppet.waiting() == 0


async def test_a_body_that_drips(api: ApiServer, puppet: Puppet) -> None:
    async with connect(api) as client:
        await client.send(request(CHAT, "content-length: 1000000", method="POST"))

        async def drip() -> None:
            while True:  # never a pause of a second, and far less than min_bytes_per_s
                await client.send(b"x")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert await client.refusal() == (408, "body_timeout")
        dripping.cancel()
    assert await puppet.waiting() == 0


async def test_a_slow_server_is_not_the_clients_fault(api: ApiServer, puppet: Puppet) -> None:
    body = json.dumps(BODY).encode()
    async with connect(api) as client:
        # The client has sent everything: it waits for its answer, longer than any bound on its own part.
        await client.send(post(CHAT, body))
        claim = await puppet.take()
        async with connect(api) as other:
            await other.ended()  # a second has passed
        await puppet.succeed(claim, b'{"x": 1}')
        assert (await client.answer())[2] == b'{"x": 1}'


async def test_a_frozen_server_blames_no_client(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    bounds: dict[str, Any] = {"read_timeout_s": 2.0, "head_timeout_s": 2.0, "write_timeout_s": 2.0}
    api = ApiProcess(broker_settings, tmp_path / "api.log", free_port(), **bounds)
    try:
        await api.ready()
        async with connect(api) as head, connect(api) as body:
            await head.send(LIVE[:-3])
            await body.send(post("/v1/none", b"x" * 100)[:-1])
            async with connect(api) as other:
                await other.send(LIVE)  # by its answer, the halves have arrived too
                assert (await other.answer())[0] == 200
            freeze(api.process.pid)
            await asyncio.sleep(3.5)
            await head.send(LIVE[-3:])
            await body.send(b"x" + LIVE)
            api.signal(signal.SIGCONT)
            assert (await head.answer())[0] == 200
            assert [(await body.answer())[0] for _ in range(2)] == [404, 200]
    finally:
        api.close()


def deaf(api: ApiServer) -> socket.socket:
    """Return a connection whose kernel takes little, so that an unread answer stays with the server."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", api.settings.port))
    return sock


def errors(text: str, code: str) -> float:
    (found,) = re.findall(rf'api_errors_total{{code="{code}"}} (\S+)', text)
    return float(found)


async def test_a_reader_that_stops_reading_is_cut(
    api: ApiServer, http: httpx.AsyncClient, puppet: Puppet, store: JobStore
) -> None:
    before = errors((await http.get("/metrics")).text, "reader_too_slow")
    body = json.dumps(BODY).encode()
    ident = await sparse_file(api, store, 64 * MIB)
    with ExitStack() as readers:

        def ask(data: bytes) -> None:
            readers.enter_context(deaf(api)).sendall(data)

        ask(post(CHAT, body))
        await puppet.succeed(await puppet.take(), b'{"x": "%b"}' % (b"y" * 16 * MIB))
        ask(request(f"/v1/files/{ident}/content"))
        ask(post(CHAT, json.dumps(BODY | {"stream": True}).encode()))
        claim = await puppet.take()
        await puppet.say(claim, Head((), '{"text":', "}"))
        for _ in range(16):
            await puppet.say(claim, Text("z" * MIB))

        async def cut() -> bool:
            text = (await http.get("/metrics")).text
            return errors(text, "reader_too_slow") == before + 3 and "api_active_requests 1.0" in text

        await eventually(cut)
    assert await puppet.beat() == {claim.id: "cancelled"}


async def test_a_slow_reader_gets_everything(api: ApiServer, store: JobStore) -> None:
    size = 3 * MIB
    with deaf(api) as sock:
        sock.sendall(request(f"/v1/files/{await sparse_file(api, store, size)}/content"))
        sock.setblocking(False)
        loop, got = asyncio.get_running_loop(), 0
        while got < size:  # for longer than write_timeout_s
            got += len(await loop.sock_recv(sock, MIB // 8))
            await asyncio.sleep(0.002)
    assert got >= size


async def sparse_file(api: ApiServer, store: JobStore, size: int) -> str:
    """Make a file of the Files API, all zeros."""
    ident = make_id(FILE_PREFIX, time.time_ns() // 1_000_000, os.urandom(10))
    path = Path(str(api.settings.files_url)) / file_key(ident)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, size)
    file = File(ident, size, "x", "batch", file_key(ident), 0)
    await FileStore(store).create(file, expires_after_ms=None)
    return ident


async def test_a_download_stops_when_its_client_leaves(
    api: ApiServer, http: httpx.AsyncClient, store: JobStore
) -> None:
    size = 512 * MIB
    ident = await sparse_file(api, store, size)
    before = psutil.Process().io_counters().read_chars
    async with connect(api) as client:
        await client.send(request(f"/v1/files/{ident}/content"))
        await client.reader.readexactly(100)
    await eventually(lambda: idle(http))
    assert psutil.Process().io_counters().read_chars - before < size // 2


async def test_one_connection_too_many(api: ApiServer, puppet: Puppet) -> None:
    await eventually(lambda: not api._server.server_state.connections)  # those of earlier tests are gone
    clients = [await entered(api) for _ in range(8)]
    try:
        async with connect(api) as late:
            await late.send(request("/v1/models"))
            assert await late.refusal() == (503, "too_many_connections")
        async with connect(api) as silent:
            assert await silent.refusal() == (503, "too_many_connections")
        for path in ("/health/live", "/health/ready", "/health?a=b"):
            async with connect(api) as probe:  # Kubernetes would restart a server that refuses it
                await probe.send(request(path))
                status, headers, _ = await probe.answer()
                assert (status, headers["connection"]) == (200, "close")
                await probe.ended()
        for client in clients:  # those who are in notice nothing
            await client.send(LIVE)
            assert (await client.answer())[0] == 200
    finally:
        for client in clients:
            client.writer.transport.abort()

    async def room() -> bool:
        async with connect(api) as client:
            await client.send(LIVE)
            return (await client.answer())[0] == 200

    await eventually(room)


async def entered(api: ApiServer) -> Client:
    client = Client(*await asyncio.open_connection("127.0.0.1", api.settings.port))
    await client.send(LIVE)
    assert (await client.answer())[0] == 200
    return client


@pytest.mark.parametrize("announced", [True, False])
async def test_the_refusal_of_a_large_body_is_read(api: ApiServer, announced: bool) -> None:
    form = "content-type: multipart/form-data; boundary=x"
    pieces = [b"x" * MIB] * 32
    for path, header, code in (
        ("/v1/files", form, (413, "file_too_large")),
        (CHAT, "content-type: application/json", (413, "body_too_large")),
    ):
        async with connect(api) as client:
            if announced:
                size = len(FORM) + sum(map(len, pieces))
                await client.send(
                    request(path, header, f"content-length: {size}", method="POST"), FORM, *pieces
                )
            else:
                chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (FORM, *pieces)]
                await client.send(request(path, header, "transfer-encoding: chunked", method="POST"), *chunks)
            assert await client.refusal() == code


async def test_pipelined_requests_are_answered_in_order(api: ApiServer) -> None:
    async with connect(api) as client:
        await client.send(LIVE + request("/v1/none") + post(CHAT, b"{") + LIVE)
        assert [(await client.answer())[0] for _ in range(4)] == [200, 404, 400, 200]
        await client.send(LIVE + b"nonsense\r\n\r\n")
        assert (await client.answer())[0] == 200


OFFER = (
    "connection: Upgrade, HTTP2-Settings",
    "upgrade: h2c",
    "http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)


@pytest.mark.parametrize("pieces", [1, 2, 7])
async def test_an_offer_of_another_protocol_is_passed_over(
    api: ApiServer, puppet: Puppet, pieces: int
) -> None:
    body = json.dumps({"input": BODY}).encode()
    chunked = request("/v1/jobs", "transfer-encoding: chunked", *OFFER, method="POST")
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with connect(api) as client:
        for whole in (post("/v1/jobs", body, *OFFER), chunked, post("/v1/jobs", body)):
            step = -(-len(whole) // pieces)
            for at in range(0, len(whole), step):
                await client.send(whole[at : at + step])
                await asyncio.sleep(0.01)  # else the pieces arrive as one
            assert (await client.answer())[0] == 202
        for upgrade in ("h2c", "websocket"):
            await client.send(request("/health/live", "connection: upgrade", f"upgrade: {upgrade}"))
            assert (await client.answer())[0] == 200
        await client.send(request("/health/live", "connection: close, Upgrade", "upgrade: h2c") + LIVE)
        assert (await client.answer())[1]["connection"] == "close"
        await client.ended()


JAVA = """
import java.net.URI;
import java.net.http.*;

public class Ask {
    public static void main(String[] args) throws Exception {
        var client = HttpClient.newHttpClient();  // offers HTTP/2, as by default
        for (int n = 0; n < 2; n++) {
            var request = HttpRequest.newBuilder(URI.create(args[0]))
                .header("content-type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(args[1]))
                .build();
            var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
"""


@pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK")
async def test_the_jdks_own_client(api: ApiServer, puppet: Puppet, tmp_path: Path) -> None:
    source = tmp_path / "Ask.java"
    source.write_text(JAVA)
    asked = await asyncio.create_subprocess_exec(
        "java", str(source), f"{api.url}{CHAT}", json.dumps(BODY), stdout=asyncio.subprocess.PIPE
    )
    for number in range(2):
        await puppet.succeed(await puppet.take(), b'{"answer": %d}' % number)
    said, _ = await asked.communicate()
    assert said.decode().splitlines() == ['200 {"answer": 0}', '200 {"answer": 1}']
