"""Versions of pools on a real server: jobs go where the version that serves is, in their order, and none is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from broker.adapters import Adapters
from broker.audit import AuditStream, Filter
from broker.catalogue import Catalogue
from broker.db.client import connect
from broker.jobs import JobStore
from broker.rollouts import Rollouts
from broker.settings import BrokerSettings
from jobs.access import Actor
from jobs.adapters import Adapter
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.model import JobError
from jobs.rollouts import Mode, RolloutState
from jobs.states import JobState
from penstock import ConflictError, NotFoundError, Penstock
from penstock.cli.main import cli
from penstock.server.child import ChildSpec
from penstock.server.fleet import Part
from penstock.server.rollout import PoolRollouts, followed
from penstock.server.supervisor import Supervisor
from tests.adapters import add, an_adapter
from tests.apiserver import ApiServer
from tests.integration.test_fair_queue import alive, spec, take
from tests.puppet import Puppet
from tests.redisproxy import RedisProxy
from tests.support import eventually
from workers.settings import WorkerSettings

pytestmark = pytest.mark.asyncio

V1, V2 = "default", "default-v2"
NEW = "worker-new"


@pytest.fixture
def rollouts(store: JobStore) -> Rollouts:
    return Rollouts(store)


async def flip(rollouts: Rollouts, to: str = V2) -> None:
    old = await rollouts.get(V1)
    assert await rollouts.write(old, old.switch(to), flip=True)


async def claimed(store: JobStore, worker: str, pool: str) -> list[str]:
    """Claim one after the other, to the last, and return their ids."""
    found: list[str] = []
    while claims := await store.claim(worker, pool=pool):
        found += [one.id for one in claims]
    return found


async def pool_of(store: JobStore, job: str) -> str:
    return str(await store.client.hget(store.keys("job", job), "pool"))


async def test_jobs_that_wait_are_moved_in_their_order_before_those_that_come(
    store: JobStore, rollouts: Rollouts
) -> None:
    await alive(store)
    await alive(store, worker=NEW, pool=V2)
    old = [(await store.accept(spec("a"))).id for _ in range(250)]
    first = (await store.accept(spec("a"))).id
    await store.move(first, top=True)
    await flip(rollouts)  # moves the first step
    come = [(await store.accept(spec("a"))).id for _ in range(5)]
    assert await pool_of(store, come[0]) == V2
    await store.reap()
    assert await rollouts.left(V1) == 0
    assert await claimed(store, NEW, V2) == [first, *old, *come]


async def test_each_tenant_and_lane_keeps_its_line(store: JobStore, rollouts: Rollouts) -> None:
    await alive(store, worker=NEW, pool=V2)
    lines: dict[tuple[str, Lane], list[str]] = {}
    for n in range(60):
        place = ("abc"[n % 3], list(Lane)[n % 4])
        lines.setdefault(place, []).append((await store.accept(spec(place[0], lane=place[1]))).id)
    await flip(rollouts)
    await store.reap()
    got = await claimed(store, NEW, V2)
    assert len(got) == 60
    for ids in lines.values():
        assert [job for job in got if job in ids] == ids


async def test_what_comes_back_from_the_old_version_goes_to_the_new_one(
    store: JobStore, rollouts: Rollouts
) -> None:
    await alive(store)
    await alive(store, worker=NEW, pool=V2)
    for _ in range(3):
        await store.accept(spec("a"))
    back, late, ends = [await take(store) for _ in range(3)]
    assert back
    assert late
    assert ends
    await flip(rollouts)
    await store.release(back, "worker-a", "drained")
    await store.retry_later(late, "worker-a", JobError(FailureCode.ENGINE_ERROR, "no"), 0.0, status=500)
    assert await store.finish(ends, "worker-a", JobState.SUCCEEDED)

    async def both_are_there() -> bool:
        await store.reap()
        return await rollouts.left(V2) == 2

    await eventually(both_are_there)
    assert await rollouts.left(V1) == 0
    assert set(await claimed(store, NEW, V2)) == {back.id, late.id}
    assert await pool_of(store, ends.id) == V1  # the record says which version ran it


async def test_who_follows_a_job_that_runs_there_ends_with_it_or_goes_along(
    store: JobStore, rollouts: Rollouts
) -> None:
    await alive(store)
    await alive(store, worker=NEW, pool=V2)
    for digest, end in (("one", JobState.SUCCEEDED), ("two", JobState.CANCELLED)):
        await store.accept(spec("a", coalesce=digest))
        leader = await take(store)
        assert leader
        follower = (await store.accept(spec("a", coalesce=digest))).id
        await flip(rollouts)
        await store.reap()
        assert await store.finish(leader, "worker-a", end)
        state = await store.client.hget(store.keys("job", follower), "state")
        assert state == ("succeeded" if end is JobState.SUCCEEDED else "queued")
        if state == "queued":
            assert await pool_of(store, follower) == V2
            assert await claimed(store, NEW, V2) == [follower]
        await flip(rollouts, V1)


async def test_the_way_back_and_a_second_version(store: JobStore, rollouts: Rollouts) -> None:
    await alive(store)
    await flip(rollouts, V2)
    await flip(rollouts, "default-v3")
    job = (await store.accept(spec("a"))).id  # an api process that knows the first version alone
    assert await pool_of(store, job) == "default-v3"
    await flip(rollouts, V1)
    await store.reap()
    assert await pool_of(store, job) == V1
    record = await rollouts.get(V1)
    assert (record.current.pool, record.previous and record.previous.pool) == (V1, "default-v3")


async def test_one_of_two_changes_at_the_same_time_wins(store: JobStore, rollouts: Rollouts) -> None:
    old = await rollouts.get(V1)
    new = old.start("m2", (), Mode.SURGE)
    written = await asyncio.gather(*(rollouts.write(old, new, what="start") for _ in range(5)))
    assert len([one for one in written if one is not None]) == 1
    stored = await rollouts.get(V1)
    assert (stored.step, stored.state) == (1, RolloutState.STARTING)
    assert stored.target
    assert (stored.target.pool, stored.target.model) == (V2, "m2")
    assert replace(stored, since_ms=None, step=0) == replace(new, since_ms=None)


async def test_one_process_carries_a_pools_rollouts_out(rollouts: Rollouts, store: JobStore) -> None:
    assert await rollouts.keep(V1, "one", 60_000)
    assert await rollouts.keep(V1, "one", 60_000)
    assert not await rollouts.keep(V1, "other", 60_000)
    await rollouts.leave(V1, "other")
    assert await rollouts.keeper(V1) == "one"
    await rollouts.leave(V1, "one")
    assert await rollouts.keep(V1, "other", 1)


async def test_a_replaced_version_is_forgotten_once_it_is_empty(store: JobStore, rollouts: Rollouts) -> None:
    puppet = Puppet(store, pool=V1)
    await puppet.live()
    await store.accept(spec("a"))
    await flip(rollouts)
    assert not await rollouts.forget(V2)  # it serves
    assert not await rollouts.forget(V1)  # its worker lives
    await store.bury(puppet.name)
    await store.reap()
    assert await rollouts.forget(V1)
    assert not await rollouts.facts(V1)
    assert V1 not in await store.client.smembers(store.keys("pools"))


async def test_requests_go_to_the_version_that_serves_and_an_open_queue_counts_as_live(
    store: JobStore, rollouts: Rollouts
) -> None:
    old, new = Puppet(store, "old", V1), Puppet(store, "new", V2)
    await old.live()
    await new.live()
    catalogue = Catalogue(store)

    async def chosen() -> list[str]:
        await catalogue.refresh()
        return [model.pool for model in catalogue.ranked("puppet")]

    assert set(await chosen()) == {V1, V2}
    await flip(rollouts)
    assert await chosen() == [V2]
    await flip(rollouts, V1)
    assert await chosen() == [V1]
    await store.bury(old.name)
    await store.bury(new.name)
    record = await rollouts.get(V1)
    await catalogue.refresh()
    assert not catalogue.has_worker
    assert await rollouts.write(record, record, held=V1)
    (model,) = [one for one in [await catalogue.find("puppet", live=True)] if one]
    assert (model.pool, catalogue.live(model), catalogue.has_worker) == (V1, True, True)


async def test_a_pause_is_of_the_version_that_serves(store: JobStore, rollouts: Rollouts) -> None:
    await alive(store)
    await alive(store, worker=NEW, pool=V2)
    await flip(rollouts)
    job = (await store.accept(spec("a"))).id
    assert await store.pause(V1, paused=True)
    assert not await claimed(store, NEW, V2)
    assert [one.paused for one in await store.queues([V1, V2])] == [True, True]
    await flip(rollouts, V1)  # it stays paused
    assert not await claimed(store, "worker-a", V1)
    assert await store.pause(V1, paused=False)
    await flip(rollouts)  # and open
    assert await claimed(store, NEW, V2) == [job]


async def test_the_kinds_that_are_taken_again_are_those_of_the_version_that_serves(
    store: JobStore, rollouts: Rollouts
) -> None:
    await flip(rollouts)
    await store.client.hset(store.keys("poison", V2), "digest", "{}")
    await store.client.expire(store.keys("poison", V2), 60)
    assert await store.unpoison(V1) == 1
    assert not await store.client.exists(store.keys("poison", V2))


async def test_a_version_that_starts_gets_no_job_before_it_serves(
    store: JobStore, rollouts: Rollouts
) -> None:
    old, new = Puppet(store, "old", V1), Puppet(store, "new", V2)
    await old.live()
    record = await rollouts.get(V1)
    begun = await rollouts.write(record, record.start("m2", (), Mode.SURGE))
    assert begun
    await new.live()
    catalogue = Catalogue(store)
    await catalogue.refresh()
    assert [model.pool for model in catalogue.ranked("puppet")] == [V1]
    job = (await store.accept(spec("a", pool=V2))).id  # an api process that looked before
    assert await pool_of(store, job) == V1
    flipped = await rollouts.write(begun, begun.flipped(), flip=True)
    assert flipped
    await catalogue.refresh()
    assert [model.pool for model in catalogue.ranked("puppet")] == [V2]
    assert await pool_of(store, job) == V2
    assert await rollouts.write(flipped, flipped.back())
    await catalogue.refresh()
    assert [model.pool for model in catalogue.ranked("puppet")] == [V2]


async def test_workers_of_a_version_get_no_job_before_the_switch(store: JobStore, rollouts: Rollouts) -> None:
    await Puppet(store, "old", V1).live()
    info = {"name": "new@host", "pool": V2, "models": ["puppet"], "version_of": V1, "capacity": 5}
    await store.register(NEW, info, {"puppet": {}})
    await store.heartbeat(NEW, first=True, info=info)
    catalogue = Catalogue(store)
    await catalogue.refresh()
    assert [model.pool for model in catalogue.ranked("puppet")] == [V1]
    await flip(rollouts)
    await store.register(NEW, info, {"puppet": {}})  # another start changes nothing
    await catalogue.refresh()
    assert [model.pool for model in catalogue.ranked("puppet")] == [V2]


async def test_the_commands(broker_settings: Any, store: JobStore, rollouts: Rollouts) -> None:
    await Puppet(store).live()
    assert await rollouts.keep(V1, "host 1", 60_000)
    with ApiServer(broker_settings) as api:

        def ran(*args: str, code: int = 0) -> str:
            done = CliRunner().invoke(cli, ["--url", api.url, *args])
            assert done.exit_code == code, done.output
            return done.output

        def all_of_them() -> None:
            ran("rollout", "status")
            assert "starting" in ran("rollout", "start", V1, "--model", "m2", "--engine-arg=--seed=1")
            assert '"engine_args":["--seed=1"]' in ran("rollout", "status", V1)
            assert V1 in ran("rollout", "status")
            assert "aborted" in ran("rollout", "abort", V1)
            assert "rollout_refused" in ran("rollout", "back", V1, code=4)
            assert "rollout_refused" in ran("rollout", "switch", V1, "--to", "nowhere", code=4)
            ran("rollout", "start", V1, "--model", "m", "--no-surge", "--in-place", code=2)
            assert '"model":"puppet"' in ran("aliases", "set", "gpt", "puppet")
            assert "gpt" in ran("aliases", "list")
            assert '"id":"gpt"' in ran("aliases", "rm", "gpt")

        await asyncio.to_thread(all_of_them)


async def test_rollouts_over_the_network(broker_settings: Any, store: JobStore, rollouts: Rollouts) -> None:
    old, new = Puppet(store, "old", V1), Puppet(store, "new", "blue")
    await old.live()
    with ApiServer(broker_settings) as api, Penstock(api.url) as client:

        def refused(call: Any) -> str:
            with pytest.raises(ConflictError) as caught:
                call()
            assert caught.value.code == "rollout_refused"
            return str(caught.value)

        def all_of_it() -> None:
            assert client.rollouts.list() == ()
            assert "rollout switch" in refused(lambda: client.rollouts.start(V1, "m2"))
            with pytest.raises(NotFoundError):
                client.rollouts.get("nowhere")
            assert "no worker of the pool 'blue' is ready" in refused(
                lambda: client.rollouts.switch(V1, "blue")
            )

        await asyncio.to_thread(all_of_it)
        await new.live()
        assert await rollouts.keep(V1, "host 1", 60_000)  # it would run the old weights as the new version
        said = await asyncio.to_thread(refused, lambda: client.rollouts.switch(V1, "blue"))
        assert "`penstock up` (host 1) runs the workers" in said
        await rollouts.leave(V1, "host 1")
        switched = await asyncio.to_thread(client.rollouts.switch, V1, "blue")
        assert (switched.state, switched.current.pool) == ("done", "blue")
        assert switched.previous
        assert switched.previous.pool == V1
        assert (await old.beat()).keys() == {"drain"}
        assert await rollouts.keep(V1, "host 1", 60_000)
        begun = await asyncio.to_thread(client.rollouts.back, V1, mode="no_surge")
        assert (begun.state, begun.under_way, begun.keeper) == ("starting", True, "host 1")
        assert await store.client.hget(store.keys("pool", "blue"), "held") == "1"
        assert "under way" in await asyncio.to_thread(refused, lambda: client.rollouts.start(V1, "m3"))
        await rollouts.leave(V1, "host 1")  # it would open the queue once the old workers are back
        aborted = await asyncio.to_thread(client.rollouts.abort, V1)
        assert (aborted.state, aborted.target) == ("aborted", None)
        assert await store.client.hget(store.keys("pool", "blue"), "held") is None
        assert await rollouts.keep(V1, "host 1", 60_000)
        flag = "--trust-remote-code"
        said = await asyncio.to_thread(refused, lambda: client.rollouts.start(V1, "m", engine_args=[flag]))
        assert flag in said
        acts, _ = await AuditStream(store).page(Filter("rollout"), limit=10, newest_first=False)
        assert [act.what for act in acts] == ["rollout.switch", "rollout.back", "rollout.abort"]


async def test_aliases_as_data(broker_settings: Any, store: JobStore, rollouts: Rollouts) -> None:
    await Puppet(store).live()
    with ApiServer(broker_settings, catalogue_refresh_s=0.2) as api, Penstock(api.url) as client:

        def all_of_it() -> None:
            made = client.aliases.set("org/gpt", "puppet")
            assert (made.id, made.model) == ("org/gpt", "puppet")
            assert (
                client.submit({"messages": [{"role": "user", "content": "x"}]}, model="org/gpt").model
                == "puppet"
            )
            assert {model.id for model in client.models()} == {"puppet", "org/gpt"}
            with pytest.raises(NotFoundError, match="model_not_found"):
                client.aliases.set("x", "nothing")
            with pytest.raises(ConflictError, match="is the name of a model"):
                client.aliases.set("puppet", "puppet")
            assert client.aliases.remove("org/gpt").model == "puppet"
            with pytest.raises(NotFoundError, match="alias_not_found"):
                client.aliases.remove("org/gpt")
            assert client.aliases.list() == ()

        await asyncio.to_thread(all_of_it)
        async with httpx.AsyncClient(base_url=api.url) as http:
            assert (await http.get("/v1/models/org/gpt")).status_code == 404
        acts, _ = await AuditStream(store).page(Filter("alias"), limit=10, newest_first=False)
        by = {act.by for act in acts}
        assert [act.what for act in acts] == ["alias.set", "alias.remove"]
        assert all(isinstance(one, Actor) for one in by)


async def test_a_new_version_has_the_adapters_of_the_one_before(store: JobStore, rollouts: Rollouts) -> None:
    adapters = Adapters(store)
    await Puppet(store, "old", V1).live()
    one = Adapter(name="tone", pool=V1, source="/somewhere", digest="d1", key="k1", size_bytes=1, rank=8)
    await adapters.add(one, announced="a", most=5)
    record = await rollouts.get(V1)
    assert await rollouts.write(record, record.start("m2", (), Mode.SURGE))
    (copy,) = await adapters.of(V2)
    assert (copy.name, copy.digest, copy.key) == ("tone", "d1", "k1")
    await Puppet(store, "new", V2).live()
    assert {"tone", "puppet"} == (await rollouts.facts(V2)).keys()
    await adapters.remove(V1, "tone")
    assert not await store.client.sismember(store.keys("files_trash"), "k1")  # the new version needs it
    await adapters.remove(V2, "tone")
    assert await store.client.sismember(store.keys("files_trash"), "k1")


async def test_adapters_that_change_while_a_version_starts_are_right_once_it_serves(
    store: JobStore, rollouts: Rollouts
) -> None:
    adapters = Adapters(store)
    await Puppet(store, "old", V1).live()
    for name in ("stays", "goes", "changes"):
        await add(adapters, an_adapter(name, pool=V1))
    record = await rollouts.get(V1)
    begun = await rollouts.write(record, record.start("m2", (), Mode.SURGE))
    assert begun
    await Puppet(store, "new", V2).live()
    for known in await adapters.of(V2):
        assert await adapters.loaded("new", known)
    version = await adapters.version(V2)
    assert version
    await adapters.remove(V1, "goes")
    await add(adapters, an_adapter("changes", "d2", pool=V1))
    await add(adapters, an_adapter("comes", pool=V1))
    await adapters.pin(V1, "stays")
    flipped = await rollouts.write(begun, begun.flipped(), flip=True)
    assert flipped
    now = {one.name: (one.digest, one.pinned, one.pool) for one in await adapters.of(V2)}
    assert now == {"stays": ("d1", True, V2), "changes": ("d2", False, V2), "comes": ("d1", False, V2)}
    facts = await rollouts.facts(V2)
    assert facts.keys() == {*now, "puppet"}
    assert facts["stays"]["adapter"] == {"digest": "d1", "ready": True}
    assert facts["comes"]["adapter"] == {"digest": "d1"}
    assert (await adapters.version(V2) or 0) > version  # its workers look
    trash = await store.client.smembers(store.keys("files_trash"))
    assert trash == {f"adapters/{V1}/goes-d1", f"adapters/{V1}/changes-d1"}


async def test_a_switch_takes_the_adapters_along(store: JobStore, rollouts: Rollouts) -> None:
    adapters = Adapters(store)
    await Puppet(store, "old", V1).live()
    await Puppet(store, "new", V2).live()
    await add(adapters, an_adapter("tone", pool=V1))
    await add(adapters, an_adapter("newer", pool=V2), once=True)  # of the new version's own settings
    await flip(rollouts)
    assert [(one.name, one.pool) for one in await adapters.all()] == [("newer", V2), ("tone", V2)]


async def test_a_change_whose_answer_was_lost_is_known_again(
    store: JobStore, rollouts: Rollouts, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    """The client library sends it twice; `penstock up` would end the version that serves if that were a failure."""
    await alive(store)  # the server knows the functions
    old = await rollouts.get(V1)
    with RedisProxy(broker_settings.redis_url, tmp_path / "p") as proxy:
        near = JobStore(connect(proxy.url), broker_settings)
        proxy.lose = b"rollout_step_"
        writing = asyncio.create_task(Rollouts(near).write(old, old.switch(V2), flip=True))
        await eventually(lambda: proxy.lost >= 1)
        proxy.lose = None
        written = await writing
        await near.aclose()
    assert written
    assert (written.step, written.current.pool) == (1, V2)
    assert await rollouts.write(old, old.switch(V2), flip=True) is None  # another call
    assert (await rollouts.get(V1)).step == 1


async def test_a_forgotten_version_leaves_no_object_of_an_adapter(
    store: JobStore, rollouts: Rollouts
) -> None:
    adapters = Adapters(store)
    await Puppet(store, "new", V2).live()
    await add(adapters, an_adapter("shared", pool=V1))
    await flip(rollouts)
    await add(adapters, an_adapter("shared", "d2", pool=V2))
    await add(adapters, an_adapter("goes", pool=V1))  # by a process that looked before the switch
    assert await rollouts.forget(V1)
    trash = await store.client.smembers(store.keys("files_trash"))
    assert trash == {f"adapters/{V1}/shared-d1", f"adapters/{V1}/goes-d1"}
    assert [(one.name, one.digest) for one in await adapters.of(V2)] == [("shared", "d2")]


async def test_a_version_that_was_given_up_is_forgotten(
    store: JobStore, rollouts: Rollouts, broker_settings: BrokerSettings
) -> None:
    record = await rollouts.get(V1)
    begun = await rollouts.write(record, record.start("m2", (), Mode.SURGE))
    assert begun
    assert await rollouts.write(begun, begun.aborted())
    assert V2 in await rollouts.pools()
    settings = WorkerSettings.model_validate(broker_settings.model_dump() | {"engine": "simulated"})
    own = JobStore(connect(broker_settings.redis_url), broker_settings)

    def no_worker(part: Part) -> ChildSpec:
        raise AssertionError(part)

    parts = [Part("worker", settings, (), ())]
    supervisor = Supervisor(print)
    one = PoolRollouts(own, parts, supervisor, no_worker, print, 1.0)
    await one.begin()
    async with followed([one]):

        async def is_forgotten() -> bool:
            return V2 not in await rollouts.pools()

        await eventually(is_forgotten)
    assert V1 in await rollouts.pools()
    await supervisor.stop()
