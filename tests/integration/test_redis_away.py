"""Redis away under load: stalled, cut off, killed, demoted, out of memory. One api, one real worker, one Redis."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec
import pytest
import pytest_asyncio
import uvloop
from redis import Redis
from redis.exceptions import BusyLoadingError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from broker.db.client import connect, connect_sync, ping
from broker.db.errors import StoreFaultError, StoreUnavailableError
from broker.events.subscriber import Subscriber
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.lanes import Lane
from jobs.model import JobSpec, Queued
from penstock._core.sse import SSEParser
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.pace import Pace
from tests.processes import WorkerProcess
from tests.puppet import MODEL, Puppet
from tests.support import eventually, free_port, freeze, new_id, wait_until

pytestmark = pytest.mark.asyncio

CAPACITY = 8
LEASE: dict[str, Any] = {"lease_ttl_s": 4.0, "heartbeat_s": 0.5, "reap_interval_s": 0.2}
RETURN_S = 15.0
"""Within this time of its return, jobs run again."""


class Site:
    """A Redis, an api and a worker; what they accepted, and what the engine ran."""

    def __init__(self, folder: Path) -> None:
        self.server = EmbeddedServer(folder)
        self.server.start()
        self.settings = BrokerSettings(redis_url=self.server.url, **LEASE)
        self.journal = folder / "journal"
        self.worker = WorkerProcess(
            self.settings,
            folder / "w1.log",
            concurrency=CAPACITY,
            simulated_inter_token_s=0.02,
            simulated_journal=str(self.journal),
            **LEASE,
        )
        self.api = ApiServer(self.settings)
        self.metrics_url = ""

    def ready(self) -> bool:
        found = re.search(r"worker_ready.*metrics=(\S+)", self.worker.log.read_text())
        self.metrics_url = found[1] if found else ""
        return bool(found)

    def running(self) -> int:
        """Jobs on the engine, by the worker's gauge."""
        with urllib.request.urlopen(self.metrics_url) as answer:
            by_lane = re.findall(r"^penstock_jobs_running\S* (\S+)", answer.read().decode(), re.MULTILINE)
        return int(sum(map(float, by_lane)))

    def starts(self) -> Counter[str]:
        """How often the engine began with each job."""
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return Counter(line["job"] for line in lines if line["event"] == "start")

    def at_once(self, jobs: list[str]) -> int:
        """How many of some jobs were on the engine at the same time, by its journal."""
        now = most = 0
        for line in map(json.loads, self.journal.read_text().splitlines()):
            if line["job"] in jobs:
                now += 1 if line["event"] == "start" else -1
                most = max(most, now)
        return most

    def redis(self) -> Redis:
        return connect_sync(self.server.url, decode_responses=True)

    def kill(self) -> None:
        """SIGKILL Redis; its folder stays."""
        os.kill(self.server.pid, signal.SIGKILL)
        self.server._process.wait()
        self.server.stop()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("away"))
    try:
        with site.api:
            wait_until(lambda: site.ready() or site.worker.process.poll() is not None)
            yield site
        assert site.worker.process.poll() is None, site.worker.log.read_text()
    finally:
        site.worker.close()
        site.server.stop()


@pytest_asyncio.fixture
async def http(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with site.api.client() as client:
        client.timeout = 60
        yield client


def body(tokens: int, **more: Any) -> dict[str, Any]:
    return {
        "model": "simulated",
        "messages": [{"role": "user", "content": "go on"}],
        "max_tokens": tokens,
    } | more


def is_503(got: httpx.Response) -> bool:
    error = got.json()["error"]
    return (
        got.status_code == 503
        and (error["code"], error["type"]) == ("redis_unavailable", "server_error")
        and 1 <= int(got.headers["retry-after"]) <= 120
    )


async def submit(http: httpx.AsyncClient, tokens: int, **more: Any) -> str:
    got = await http.post("/v1/jobs", json={"input": body(tokens, **more)})
    assert got.status_code == 202, got.text
    return str(got.json()["id"])


async def state(http: httpx.AsyncClient, job_id: str) -> str:
    got = await http.get(f"/v1/jobs/{job_id}")
    return str(got.json()["state"]) if got.status_code == 200 else str(got.status_code)


async def all_succeed(http: httpx.AsyncClient, jobs: list[str], timeout_s: float = 30.0) -> None:
    for job_id in jobs:

        async def done(job_id: str = job_id) -> bool:
            return await state(http, job_id) == "succeeded"

        await eventually(done, timeout_s)


async def whole_again(site: Site, http: httpx.AsyncClient) -> list[str]:
    """All slots are free, and every one of them works. Returns the jobs that showed it."""
    await eventually(lambda: site.running() == 0, 20)
    assert (await http.post("/v1/queues/default/pause")).status_code == 200
    jobs = [await submit(http, 50) for _ in range(CAPACITY + 2)]
    assert (await http.post("/v1/queues/default/resume")).status_code == 200
    await all_succeed(http, jobs)
    assert site.at_once(jobs) == CAPACITY
    await eventually(lambda: site.running() == 0)
    return jobs


class Load:
    """Clients that submit all the time, and what they were told."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.ran: set[str] = set()
        self.refused = 0
        self.slowest_s = 0.0
        self.pace = Pace()
        self.over = False

    async def client(self, http: httpx.AsyncClient) -> None:
        while not self.over:
            before = time.monotonic()
            got = await http.post("/v1/jobs", json={"input": body(5)})
            self.slowest_s = max(self.slowest_s, time.monotonic() - before)
            if got.status_code == 202:
                self.accepted.append(got.json()["id"])
            else:
                assert is_503(got), got.text
                self.refused += 1
            await asyncio.sleep(0.05)

    async def goes_on(self, since: float) -> None:
        """Wait until a job that is submitted now is accepted and run."""
        known = len(self.accepted)
        await eventually(lambda: len(self.accepted) > known)
        assert time.monotonic() - since < self.pace.stretch(RETURN_S)


@asynccontextmanager
async def load(site: Site, http: httpx.AsyncClient) -> AsyncIterator[Load]:
    """Run the block under load. Afterwards every accepted job has run, each once, and the worker is whole."""
    told = Load()
    clients = [asyncio.create_task(told.client(http)) for _ in range(4)]
    try:
        await eventually(lambda: len(told.accepted) > 10)
        yield told
    finally:
        told.over = True  # each hears the answer to what it has sent
        await asyncio.gather(*clients)
    await all_succeed(http, told.accepted)
    starts = site.starts()
    assert {starts[job_id] for job_id in told.accepted} == {1}
    told.ran = {*told.accepted, *await whole_again(site, http)}


# ---- it is away ------------------------------------------------------------------------------------------------


async def test_stalled(site: Site, http: httpx.AsyncClient) -> None:
    """What Redis meets when it wakes up, after its client was told 503, is not carried out."""
    before = site.starts().keys()
    async with load(site, http) as told:
        freeze(site.server.pid)
        await asyncio.sleep(10)  # the fault's length
        await eventually(lambda: told.refused >= 4)  # of four clients, while it still sleeps
        os.kill(site.server.pid, signal.SIGCONT)
        await told.goes_on(time.monotonic())
    assert site.starts().keys() - before == told.ran


async def test_every_connection_cut_again_and_again(site: Site, http: httpx.AsyncClient) -> None:
    async with load(site, http) as told:
        with site.redis() as admin:
            for _ in range(12):
                admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                await asyncio.sleep(0.25)
        await told.goes_on(time.monotonic())


async def test_killed(site: Site, http: httpx.AsyncClient) -> None:
    """What got a 202 survives, streams too; what comes meanwhile gets a 503, and nothing is left of it."""
    streamed = await submit(http, 200, stream=True)
    reading = asyncio.create_task(read_events(http, streamed))
    chatting = asyncio.create_task(read_chat(http, 200))
    await eventually(lambda: site.running() == 2)
    long = [await submit(http, 100) for _ in range(CAPACITY * 2)]
    async with load(site, http) as told:
        site.kill()
        refused = told.refused
        await eventually(lambda: told.refused > refused + 3)
        for method, path in (("POST", "/v1/chat/completions"), ("GET", f"/v1/jobs/{streamed}")):
            assert is_503(await http.request(method, path, json=body(5))), path
        site.server.start()
        await told.goes_on(time.monotonic())
    await all_succeed(http, long)

    events = await reading
    got = await http.get(f"/v1/jobs/{streamed}")
    assert events[-1].event == "succeeded"
    assert "restarted" not in {e.event for e in events}
    said = "".join(text_of(json.loads(e.data)) for e in events if e.event == "chunk")
    assert said == got.json()["result"]["choices"][0]["message"]["content"]

    lines = await chatting
    assert lines[-1] == "[DONE]"
    assert "".join(text_of(json.loads(line)) for line in lines[:-1]) == said

    with site.redis() as client:
        ended = {state: client.zcard(f"penstock:ended:{state}") for state in ("failed", "expired")}
        held = {key: client.scard(key) for key in client.scan_iter("penstock:worker:*:jobs")}
        pool: Any = client.hgetall("penstock:pool:default")
    assert not any(ended.values()), ended
    assert not held
    assert {pool[f"depth:{lane}"] for lane in Lane if f"depth:{lane}" in pool} | {pool["active"]} == {"0"}


async def read_events(http: httpx.AsyncClient, job_id: str) -> list[Any]:
    """Follow a job to its end, resuming where the stream was cut."""
    parser, found = SSEParser(""), list[Any]()
    while True:
        headers = {"last-event-id": found[-1].id} if found else {}
        async with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as got:
            if got.status_code == 200:
                async for data in got.aiter_bytes():
                    found += parser.feed(data)
            elif got.status_code == 204:
                return found
            else:
                assert got.status_code == 503
                await asyncio.sleep(0.2)


async def read_chat(http: httpx.AsyncClient, tokens: int) -> list[str]:
    async with http.stream("POST", "/v1/chat/completions", json=body(tokens, stream=True)) as got:
        assert got.status_code == 200
        return [line.removeprefix("data: ") async for line in got.aiter_lines() if line]


def text_of(chunk: dict[str, Any]) -> str:
    if "text" in chunk:
        return str(chunk["text"])
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


# ---- it is there, but refuses ----------------------------------------------------------------------------------


def configured(name: str, value: str, back: str) -> tuple[Callable[[Redis], Any], Callable[[Redis], Any]]:
    return lambda c: c.config_set(name, value), lambda c: c.config_set(name, back)


def demote(client: Redis) -> None:
    client.execute_command("REPLICAOF", "127.0.0.1", "1")


def cut_off(client: Redis) -> None:
    client.config_set("replica-serve-stale-data", "no")
    demote(client)


def promote(client: Redis) -> None:
    client.execute_command("REPLICAOF", "NO", "ONE")
    client.config_set("replica-serve-stale-data", "yes")


FAULTS = {
    "OOM": configured("maxmemory", "1", "0"),
    "NOREPLICAS": configured("min-replicas-to-write", "1", "0"),
    "READONLY": (demote, promote),
    "MASTERDOWN": (cut_off, promote),
}


@pytest.mark.parametrize(
    "fault", [one if one == "MASTERDOWN" else pytest.param(one, marks=pytest.mark.full) for one in FAULTS]
)
async def test_refusing(site: Site, http: httpx.AsyncClient, fault: str) -> None:
    begin, end = FAULTS[fault]
    async with load(site, http) as told:
        with site.redis() as admin:
            begin(admin)
            refused = told.refused
            await eventually(lambda: told.refused > refused + 3)
            assert is_503(await http.post("/v1/chat/completions", json=body(5, stream=True)))
            reads = await http.get("/v1/jobs")
            assert is_503(reads) if fault == "MASTERDOWN" else reads.status_code == 200
            end(admin)
        await told.goes_on(time.monotonic())
    assert told.slowest_s < told.pace.stretch(5)


class SlowToLoad(EmbeddedServer):
    """Takes its time to read its log, and says so meanwhile."""

    @property
    def argv(self) -> list[str]:
        return [*super().argv, "--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024"]


async def test_a_full_disk_and_loading(tmp_path: Path) -> None:
    server, slow = EmbeddedServer(tmp_path), SlowToLoad(tmp_path)
    post = ("POST", "/v1/jobs", {"input": body(5, model=MODEL)})
    server.start()
    try:
        with ApiServer(BrokerSettings(redis_url=server.url)) as api:
            store = JobStore(connect(server.url), api.settings)
            await Puppet(store).live()
            async with api.client() as http:

                async def answer() -> int:
                    got = await http.request(post[0], post[1], json=post[2])
                    assert got.status_code == 202 or is_503(got), got.text
                    return got.status_code

                async def accepted() -> bool:
                    return await answer() == 202

                await eventually(accepted)
                with connect_sync(server.url) as admin:
                    (server.dir / "dump.rdb").mkdir()  # in the snapshot's way, as a full disk would be
                    admin.config_set("save", "3600 1")
                    admin.bgsave()
                    await eventually(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
                    with pytest.raises(ResponseError, match="MISCONF"):
                        admin.set("k", "v")
                    assert await answer() == 503
                    admin.config_set("save", "")
                    await eventually(accepted)
                    pipe = admin.pipeline(transaction=False)
                    for n in range(8_000):
                        pipe.set(f"filler:{n}", n)
                    pipe.execute()
                server.stop()
                starting = asyncio.create_task(asyncio.to_thread(slow.start))
                await eventually(lambda: loading(slow))
                await eventually(accepted)  # what it answers until then is 503
                await starting
            await store.aclose()
    finally:
        server.stop()
        slow.stop()


def loading(server: EmbeddedServer) -> bool:
    try:
        ping(server.url)
    except StoreUnavailableError as error:
        return isinstance(error.__cause__, BusyLoadingError)
    return False


async def test_out_of_memory_costs_no_lease_and_no_token(site: Site, http: httpx.AsyncClient) -> None:
    """Longer than a lease: what runs is kept, cancels get through, results wait."""
    streamed, doomed, *plain = await asyncio.gather(
        submit(http, 200, stream=True), submit(http, 2000), *(submit(http, 200) for _ in range(CAPACITY - 2))
    )
    reading = asyncio.create_task(read_events(http, streamed))
    await eventually(lambda: site.running() == CAPACITY)
    waiting = await submit(http, 5)
    with site.redis() as admin:
        admin.config_set("maxmemory", "1")
        since = admin.time()[0]
        cancelled = await http.post(f"/v1/jobs/{waiting}/cancel")
        assert cancelled.json()["state"] == "cancelled"
        await eventually(lambda: admin.time()[0] > since + LEASE["lease_ttl_s"] + 1)
        assert [await state(http, job_id) for job_id in plain] == ["running"] * len(plain)
        await http.post(f"/v1/jobs/{doomed}/cancel")
        assert is_503(await http.post("/v1/jobs", json={"input": body(5)}))
        admin.config_set("maxmemory", "0")
    await all_succeed(http, plain)
    events = await reading
    said = "".join(text_of(json.loads(e.data)) for e in events if e.event == "chunk")
    got = (await http.get(f"/v1/jobs/{streamed}")).json()
    assert (got["attempt"], events[-1].event) == (1, "succeeded")
    assert said == got["result"]["choices"][0]["message"]["content"]
    await whole_again(site, http)


async def test_an_error_that_nobody_expected_reaches_every_caller(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def defective(_: object) -> None:
        raise RuntimeError("dictionary changed size during iteration")

    with monkeypatch.context() as patch:
        patch.setattr(store.functions, "_send", defective)
        asked = [store.cancel(new_id()) for _ in range(3)]
        for told in await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 20):
            assert isinstance(told, StoreFaultError)
            assert "dictionary changed size" in str(told)
    assert await store.cancel(new_id()) is None


async def test_a_write_to_a_closed_connection_is_a_broken_connection(valkey: EmbeddedServer) -> None:
    """uvloop has no OSError for it."""

    async def write() -> None:
        client = connect(valkey.url)
        link: Any = await client.connection_pool.get_connection()
        link._writer.transport.abort()
        await eventually(link._reader.at_eof)
        with pytest.raises(RedisConnectionError, match="handler is closed"):
            await link.send_command("PING")
        await client.connection_pool.release(link)
        await client.aclose()

    await asyncio.to_thread(uvloop.run, write())


class Moving:
    """An address in front of servers, as a name or a virtual IP is: what is connected stays where it is."""

    def __init__(self) -> None:
        self.target = Path()
        self.port = free_port()
        self._pipes: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self.target)
        for ends in ((reader, far_writer), (far_reader, writer)):
            self._pipes.add(asyncio.create_task(self._pipe(*ends)))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        finally:
            writer.close()


async def test_a_demoted_master_still_says_where_a_job_stands(tmp_path: Path) -> None:
    """Its refusals break the connections of writes; who only looks has others."""

    def spec() -> JobSpec:
        return JobSpec(id=new_id(), endpoint="/v1/completions", model="m", body=b"{}")

    with EmbeddedServer(tmp_path) as server:
        settings = BrokerSettings(redis_url=server.url)
        store = JobStore(connect(server.url), settings)
        with connect_sync(server.url) as admin:
            waiting = (await store.accept(spec())).id
            demote(admin)
        write = store.accept(spec())
        look = store.outlook("default", Lane.NORMAL, "default")
        refused, stands = await asyncio.gather(write, look, return_exceptions=True)
        assert isinstance(refused, StoreUnavailableError)
        assert stands == (1, None)
        job = await store.get(waiting)
        assert job is not None
        assert job.phase == Queued(0)
        await store.aclose()


async def test_a_demoted_master_is_left_for_the_one_at_its_address(tmp_path: Path) -> None:
    """Commands meet its refusal; a subscription hears nothing any more, and notices."""
    heard: list[list[str]] = []
    with EmbeddedServer(tmp_path / "a") as old, EmbeddedServer(tmp_path / "b") as new:
        async with Moving() as address:
            address.target = old.socket_path
            settings = BrokerSettings(redis_url=f"redis://127.0.0.1:{address.port}/0")
            store = JobStore(connect(settings.redis_url), settings)
            await store.register("w", {"pool": "old"}, {"m": {}})
            client = connect(settings.redis_url, text=False)
            subscriber = Subscriber(client, "channel", heard.append, lambda: None, silence_s=0.3)
            await subscriber.start()
            address.target = new.socket_path
            with connect_sync(old.url) as admin:
                demote(admin)
            await store.register("w", {"pool": "new"}, {"m": {}})
            with connect_sync(new.url) as admin:
                assert list(admin.hgetall(store.keys("models"))) == [b"new m"]
                (model,) = await store.models()
                assert model == {"name": "m", "pool": "new", "aliases": [], "created": model["created"]}
                said = msgspec.msgpack.encode(["word"])
                await eventually(lambda: admin.publish("channel", said))
                await eventually(lambda: ["word"] in heard)
            await subscriber.stop()
            await store.aclose()
