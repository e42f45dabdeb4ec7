"""A worker's LoRA adapters, on the simulated engine, which dies as vLLM does if files of a loaded adapter are gone."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from broker.adapters import Adapters
from broker.db.errors import StoreFaultError
from broker.jobs import JobStore
from jobs.adapters import Adapter, AdapterState
from monitoring.metrics import WorkerMetrics
from storage import MissingObjectError, Storage
from storage.local import LocalStorage
from tests.adapters import add, an_adapter
from tests.puppet import Puppet
from tests.support import eventually
from tests.tiny_adapters import declare, tiny_adapter
from workers.adapters.files import AdapterFiles
from workers.adapters.pool import AdapterPool
from workers.adapters.reports import Reports
from workers.engines.base import AdapterBrokenError, EngineRequest
from workers.engines.settings import SimulatedSettings
from workers.engines.simulated.engine import SimulatedEngine

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return LocalStorage(tmp_path / "files")


@pytest.fixture
def adapters(store: JobStore) -> Adapters:
    return Adapters(store)


class Worker:
    """A worker's engine and adapters, which answer requests as a runner has them do."""

    def __init__(
        self, engine: SimulatedEngine, pool: AdapterPool, registry: CollectorRegistry, name: str
    ) -> None:
        self.engine, self.pool, self.name, self._registry = engine, pool, name, registry
        self._numbers = iter(range(10_000))

    async def ask(self, model: str, tokens: int = 4) -> dict[str, Any]:
        """Run a request; return its answer."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens}
        async with self.pool.held(model) as folder:
            request = EngineRequest(
                f"r{next(self._numbers)}", CHAT, msgspec.json.encode(body), adapter=folder
            )
            final = await self.engine.run(request, lambda _: None)
        return {"status": final.status, **msgspec.json.decode(final.body)}

    async def says(self, model: str) -> str:
        """Return the text of an answer with an adapter."""
        answer = await self.ask(model)
        assert answer["status"] == 200, answer
        assert answer["model"] == model
        text: str = answer["choices"][0]["message"]["content"]
        return text

    def counted(self, name: str, **labels: str) -> float:
        return self._registry.get_sample_value(name, labels) or 0.0


Start = Callable[..., Awaitable[Worker]]


@pytest_asyncio.fixture
async def start(store: JobStore, storage: Storage, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts workers of the pool ``default``."""
    numbers = itertools.count(1)

    @asynccontextmanager
    async def running(most: int, token_s: float) -> AsyncIterator[Worker]:
        puppet = Puppet(store, f"puppet-{next(numbers)}")
        await puppet.live()
        engine = SimulatedEngine(SimulatedSettings(adapters=most, adapter_max_rank=8, ttft_s=token_s))
        await engine.start()
        registry = CollectorRegistry()
        metrics = WorkerMetrics(registry)
        pool = AdapterPool(
            engine,
            Adapters(store),
            metrics,
            lambda: storage,
            tmp_path / "copies",
            worker=puppet.name,
            pool="default",
            most=most,
        )
        keeping = asyncio.create_task(pool.keep())
        try:
            yield Worker(engine, pool, registry, puppet.name)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await engine.stop()
            pool.close(died=False)

    async with AsyncExitStack() as stack:

        async def start_one(most: int = 2, token_s: float = 0.0) -> Worker:
            return await stack.enter_async_context(running(most, token_s))

        yield start_one


async def said(adapters: Adapters, worker: Worker) -> dict[str, AdapterState]:
    reports = (await adapters.reports([worker.name]))[worker.name]
    return {name: report.state for name, report in reports.items()}


async def until(adapters: Adapters, worker: Worker, **wanted: AdapterState | None) -> None:
    """Wait until a worker has said this of adapters, after it has heard of the last change."""
    worker.pool.changed(await adapters.version("default"))

    async def so() -> bool:
        states = await said(adapters, worker)
        return all(states.get(name) == state for name, state in wanted.items())

    await eventually(so)


LOADED, STORED, FAILED = AdapterState.LOADED, AdapterState.STORED, AdapterState.FAILED


async def test_it_follows_what_is_declared(
    adapters: Adapters, storage: Storage, start: Start, tmp_path: Path
) -> None:
    worker = await start()
    await declare(adapters, storage, tiny_adapter(tmp_path / "a1", 1), "a")
    await until(adapters, worker, a=LOADED)
    assert worker.pool.state() == {"adapters": ["a"]}
    first = await worker.says("a")
    assert first != await worker.says("simulated")
    await declare(adapters, storage, tiny_adapter(tmp_path / "a2", 2), "a")
    await until(adapters, worker, a=LOADED)

    async def replaced() -> bool:
        return await worker.says("a") != first

    await eventually(replaced)
    await adapters.remove("default", "a")
    await until(adapters, worker, a=None)

    async def gone() -> bool:
        return (await worker.ask("a"))["status"] == 404 and not worker.engine.adapters()

    await eventually(gone)


async def test_a_request_for_one_that_was_just_added_loads_it(
    adapters: Adapters, storage: Storage, start: Start, tmp_path: Path
) -> None:
    worker = await start()
    await declare(adapters, storage, tiny_adapter(tmp_path / "a", 1), "a")
    assert await worker.says("a")
    assert (await worker.ask("b"))["status"] == 404


async def test_the_least_recently_used_leaves_and_comes_back(
    adapters: Adapters, storage: Storage, start: Start, tmp_path: Path
) -> None:
    worker = await start(most=2)
    for seed, name in enumerate("abc", 1):
        await declare(adapters, storage, tiny_adapter(tmp_path / name, seed), name)
        await until(adapters, worker, **{name: LOADED})
    texts = {name: await worker.says(name) for name in "abc"}
    assert len(set(texts.values())) == 3
    await until(adapters, worker, a=STORED, b=LOADED, c=LOADED)
    assert await worker.says("b") == texts["b"]
    assert await worker.says("a") == texts["a"]  # in the place of c, which was used before b
    await until(adapters, worker, a=LOADED, b=LOADED, c=STORED)
    assert len(worker.engine.adapters()) == 2
    assert worker.counted("penstock_adapters_loaded") == 2
    assert worker.counted("penstock_adapter_evictions_total") >= 2
    assert worker.counted("penstock_adapter_loads_total", outcome="loaded") >= 4


async def test_a_pinned_one_stays(adapters: Adapters, storage: Storage, start: Start, tmp_path: Path) -> None:
    worker = await start(most=2)
    for seed, name in enumerate("abc", 1):
        await declare(adapters, storage, tiny_adapter(tmp_path / name, seed), name)
        await adapters.pin("default", name)  # there is room for one: others need a place as well
    await until(adapters, worker, a=LOADED)
    for name in "bcbcb":
        await worker.says(name)
    await until(adapters, worker, a=LOADED, b=LOADED, c=STORED)
    loads = worker.counted("penstock_adapter_loads_total", outcome="loaded")
    assert (
        await worker.pool._try_all()
    )  # a pin beyond the places has no effect: c does not come back by itself
    assert worker.counted("penstock_adapter_loads_total", outcome="loaded") == loads > 0


async def test_requests_in_flight_keep_the_version_they_began_with(
    adapters: Adapters, storage: Storage, start: Start, tmp_path: Path
) -> None:
    worker = await start(most=2)
    old = await declare(adapters, storage, tiny_adapter(tmp_path / "a1", 1), "a")
    text = await worker.says("a")
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> str:
        async with worker.pool.held("a") as folder:
            entered.set()
            await leave.wait()
            body = b'{"model":"a","messages":[{"role":"user","content":"hi"}],"max_tokens":4}'
            final = await worker.engine.run(EngineRequest("held", CHAT, body, adapter=folder), lambda _: None)
            answer: str = msgspec.json.decode(final.body)["choices"][0]["message"]["content"]
            return answer

    held = asyncio.create_task(hold())
    await entered.wait()
    await declare(adapters, storage, tiny_adapter(tmp_path / "a2", 2), "a")
    await storage.delete([old.key])
    worker.pool.changed(await adapters.version("default"))

    async def replaced() -> bool:
        return await worker.says("a") != text

    await eventually(replaced)
    await adapters.remove("default", "a")
    worker.pool.changed(await adapters.version("default"))
    await eventually(lambda: _only(worker, 1))
    leave.set()
    assert await held == text
    await eventually(lambda: _only(worker, 0))


async def _only(worker: Worker, count: int) -> bool:
    return len(worker.engine.adapters()) == count


async def test_an_engine_that_sleeps_has_none(
    adapters: Adapters, storage: Storage, start: Start, tmp_path: Path
) -> None:
    worker = await start()
    await declare(adapters, storage, tiny_adapter(tmp_path / "a", 1), "a")
    await until(adapters, worker, a=LOADED)
    text = await worker.says("a")
    await worker.pool.rest()
    assert worker.engine.adapters() == frozenset()
    await declare(adapters, storage, tiny_adapter(tmp_path / "b", 2), "b")
    await until(adapters, worker, a=STORED)
    assert worker.engine.adapters() == frozenset()
    worker.pool.wake()
    assert await worker.says("a") == text
    await until(adapters, worker, a=LOADED, b=LOADED)


async def test_one_that_waits_for_a_place_gets_it_although_all_are_busy(
    adapters: Adapters, storage: Storage, start: Start, tmp_path: Path
) -> None:
    worker = await start(most=2, token_s=0.05)
    for seed, name in enumerate("abc", 1):
        await declare(adapters, storage, tiny_adapter(tmp_path / name, seed), name)
    await until(adapters, worker, a=STORED, b=LOADED, c=LOADED)
    stop = asyncio.Event()

    async def busy(name: str) -> None:
        while not stop.is_set():
            await worker.says(name)

    crowd = [asyncio.create_task(busy(name)) for name in "bbbccc"]
    try:
        assert await worker.says("a")
    finally:
        stop.set()
        await asyncio.gather(*crowd)


async def test_a_request_may_give_up_while_it_waits_for_a_place(
    adapters: Adapters, storage: Storage, start: Start, tmp_path: Path
) -> None:
    worker = await start(most=2)
    for seed, name in enumerate("abc", 1):
        await declare(adapters, storage, tiny_adapter(tmp_path / name, seed), name)
    await until(adapters, worker, a=STORED, b=LOADED, c=LOADED)
    async with worker.pool.held("b"), worker.pool.held("c"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), worker.pool.held("a"):
                pytest.fail("there was no place")
        assert await worker.says("b")
    assert await worker.says("a")
    assert len(worker.engine.adapters()) == 2


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_request_that_waits_for_one_that_is_removed_or_replaced_ends(
    adapters: Adapters, storage: Storage, start: Start, tmp_path: Path, *, replaced: bool
) -> None:
    worker = await start(most=2)
    for seed, name in enumerate("abc", 1):
        await declare(adapters, storage, tiny_adapter(tmp_path / name, seed), name)
    await until(adapters, worker, a=STORED, b=LOADED, c=LOADED)
    old = await worker.says("a")
    await worker.says("b")
    await worker.says("c")
    async with worker.pool.held("b"), worker.pool.held("c"):
        waiting = asyncio.create_task(worker.ask("a"))
        await asyncio.sleep(0)
        if replaced:
            await declare(adapters, storage, tiny_adapter(tmp_path / "new", 4), "a")
        else:
            await adapters.remove("default", "a")
        await worker.pool._read()
        assert not waiting.done()
    async with asyncio.timeout(10):
        answer = await waiting
    if replaced:
        assert answer["choices"][0]["message"]["content"] == await worker.says("a") != old
    else:
        assert answer["status"] == 404


async def test_a_broken_one_fails_its_requests_with_the_reason_and_hurts_nobody(
    adapters: Adapters, storage: Storage, start: Start, tmp_path: Path
) -> None:
    worker = await start()
    await declare(adapters, storage, tiny_adapter(tmp_path / "good", 1), "good")
    await declare(adapters, storage, tiny_adapter(tmp_path / "large", 2, rank=64), "large")
    await until(adapters, worker, good=LOADED, large=FAILED)
    with pytest.raises(AdapterBrokenError, match="'large' cannot be used: its rank is 64"):
        await worker.ask("large")
    assert worker.counted("penstock_adapter_loads_total", outcome="broken") == 1
    assert await worker.says("good")
    await declare(adapters, storage, tiny_adapter(tmp_path / "small", 3, rank=8), "large")
    await until(adapters, worker, large=LOADED)
    assert await worker.says("large")


async def test_objects_that_are_missing_or_changed(
    adapters: Adapters, storage: Storage, start: Start, tmp_path: Path
) -> None:
    gone = await declare(adapters, storage, tiny_adapter(tmp_path / "gone", 1), "gone")
    changed = await declare(adapters, storage, tiny_adapter(tmp_path / "changed", 2), "changed")
    no_tar = await declare(adapters, storage, tiny_adapter(tmp_path / "no", 3), "no")
    await storage.delete([gone.key, changed.key])
    await storage.put(changed.key, await _whole(storage, no_tar.key))
    worker = await start(most=3)
    await until(adapters, worker, gone=FAILED, changed=FAILED, no=LOADED)
    with pytest.raises(AdapterBrokenError, match="object in storage is gone"):
        await worker.ask("gone")
    with pytest.raises(AdapterBrokenError, match="not the one that was declared"):
        await worker.ask("changed")
    for old in (gone, changed):  # the same files again mend it
        again = await declare(adapters, storage, tmp_path / old.name, old.name)
        assert again.digest == old.digest
    await until(adapters, worker, gone=LOADED, changed=LOADED)
    assert await worker.says("gone")
    assert await worker.says("changed")


async def _whole(storage: Storage, key: str) -> bytes:
    return b"".join([piece async for piece in storage.read(key)])


async def test_one_that_was_replaced_while_it_was_fetched_is_tried_again(
    adapters: Adapters, storage: Storage, start: Start, tmp_path: Path
) -> None:
    worker = await start()
    old = await declare(adapters, storage, tiny_adapter(tmp_path / "a1", 1), "a")
    await adapters.remove("default", "a")
    await storage.delete([old.key])
    await declare(
        adapters, storage, tiny_adapter(tmp_path / "a1", 1), "a"
    )  # the same files under another key
    worker.pool.changed(await adapters.version("default"))
    try:
        assert await worker.says("a")
    except MissingObjectError:
        assert await worker.says("a")


async def test_churn(adapters: Adapters, storage: Storage, start: Start, tmp_path: Path) -> None:
    """Fifty adapters, eight places, two workers: nobody fails, and each answer is its adapter's."""
    workers = [await start(most=8, token_s=0.001) for _ in range(2)]
    names = [f"team/a{number}" for number in range(50)]
    for number, name in enumerate(names):
        await declare(adapters, storage, tiny_adapter(tmp_path / f"a{number}", number), name)
    chance = random.Random(1)
    texts: dict[str, set[str]] = {}

    async def client(worker: Worker) -> None:
        for name in chance.choices([*names, "simulated"], k=60):
            texts.setdefault(name, set()).add(await worker.says(name))

    await asyncio.gather(*(client(worker) for worker in workers for _ in range(8)))
    assert all(len(one) == 1 for one in texts.values())
    assert len(texts) == 51
    assert all(len(worker.engine.adapters()) <= 8 for worker in workers)
    copies = [len(list(folder.glob("*-*"))) for folder in (tmp_path / "copies").glob("worker-*")]
    assert max(copies) <= (4 + 1 + 1) * 8  # spare ones, those in the engine, and those that are on their way


async def test_a_version_under_which_two_workers_ended_is_tried_no_more(
    adapters: Adapters, storage: Storage, start: Start, tmp_path: Path
) -> None:
    adapter = await declare(adapters, storage, tiny_adapter(tmp_path / "a", 1), "a")
    _try_and_end(tmp_path / "copies", adapter, died=True, times=2)
    worker = await start()
    await until(adapters, worker, a=FAILED)
    with pytest.raises(AdapterBrokenError, match="two workers ended"):
        await worker.ask("a")


async def test_neither_an_end_in_order_nor_a_death_before_a_success_counts(
    adapters: Adapters, storage: Storage, start: Start, tmp_path: Path
) -> None:
    adapter = await declare(adapters, storage, tiny_adapter(tmp_path / "a", 1), "a")
    _try_and_end(tmp_path / "copies", adapter, died=False, times=2)
    for _ in range(2):
        _try_and_end(tmp_path / "copies", adapter, died=True, times=1)
        worker = await start()
        await until(adapters, worker, a=LOADED)


def _try_and_end(root: Path, adapter: Adapter, *, died: bool, times: int) -> None:
    """Do as workers that end while they load a version. ``died``: their engine died."""
    for _ in range(times):
        files = AdapterFiles(lambda: LocalStorage(root / "none"), root, 4, frozenset)
        files.begin_trial(files.folder(adapter))
        files.close(died=died)


async def test_a_report_that_is_refused_holds_up_no_other(store: JobStore) -> None:
    class Refusing(Adapters):
        async def loaded(self, worker: str, adapter: Adapter) -> bool:
            if adapter.name == "a":
                raise StoreFaultError("loaded", "as the test says")
            return await super().loaded(worker, adapter)

    puppet = Puppet(store)
    await puppet.live()
    adapters = Refusing(store)
    for name in "ab":
        await add(adapters, an_adapter(name))
    reports = Reports(adapters, puppet.name, lambda: None)
    for one in await adapters.of("default"):
        reports.loaded(one)
    keeping = asyncio.create_task(reports.keep())

    async def b() -> bool:
        return "b" in (await adapters.reports([puppet.name]))[puppet.name]

    await eventually(b)
    keeping.cancel()
