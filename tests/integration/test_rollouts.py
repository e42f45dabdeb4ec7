"""Versions of pools on a real server: jobs go where the version that serves is, in their order, and none is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from broker.adapters import Adapters
from broker.audit import AuditStream, Filter
from broker.catalogue import Catalogue
from broker.jobs import JobStore
from broker.rollouts import Rollouts
from jobs.access import Actor
from jobs.adapters import Adapter
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.model import JobError
from jobs.rollouts import Mode, RolloutState
from jobs.states import JobState
from penstock import ConflictError, NotFoundError, Penstock
from penstock.cli.main import cli
from tests.apiserver import ApiServer
from tests.integration.test_fair_queue import alive, spec, take
from tests.puppet import Puppet
from tests.support import eventually

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
