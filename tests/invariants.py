"""What must hold of the queue's keys at any moment: the invariants of ``broker/lua/queue/_queue.lua``."""

from __future__ import annotations

from collections import Counter
from typing import Any

from broker.db.keys import Keys
from jobs.lanes import Lane


def check_queues(client: Any, keys: Keys) -> None:
    """Fail where the parts of the fair queue do not agree with each other or with the records.

    Args:
        client: a synchronous :class:`redis.Redis` with decoded responses.
        keys: of the namespace.
    """
    for pool in {queue.split(".")[1] for queue in client.smembers(keys("queues"))}:
        _check_pool(client, keys, pool)


def _check_pool(client: Any, keys: Keys, pool: str) -> None:
    admitted: set[str] = set()
    waiting: Counter[str] = Counter()
    parked = dict(client.zrange(keys("parked", pool), 0, -1, withscores=True))
    for lane in Lane:
        queue = keys("queue", pool, lane)
        queued = set(client.zrange(keys("queued", queue), 0, -1))
        window = client.zrange(keys("window", queue), 0, -1)
        turns = dict(client.zrange(keys("turns", queue), 0, -1, withscores=True))
        backlogs = {
            key.removeprefix(keys("backlog", queue, "")): client.zrange(key, 0, -1)
            for key in client.scan_iter(keys("backlog", queue, "*"), count=1000)
        }
        behind = [job for jobs in backlogs.values() for job in jobs]
        assert sorted(queued) == sorted([*window, *behind]), f"{queue}: queued is not window and backlogs"
        here = {name.split(" ", 1)[1] for name in parked if name.split(" ")[0] == lane}
        assert set(turns).isdisjoint(here), f"{queue}: a tenant is parked and has a turn"
        assert set(turns) | here == set(backlogs), f"{queue}: turns are not those of the backlogs"
        assert queued or not client.exists(keys("fair", queue)), f"{queue}: an empty lane keeps turns"
        admitted |= set(window)
        for job in queued:
            state, at, tenant = client.hmget(keys("job", job), "state", "lane", "tenant")
            assert (state, at) == ("queued", lane), f"{job} is {state} in {at}, and waits in {lane}"
            waiting[tenant] += 1
    for job in client.zrange(keys("by_state", "running"), 0, -1):
        if client.hget(keys("job", job), "pool") == pool:
            admitted.add(job)
    by_tenant = Counter(client.hget(keys("job", job), "tenant") for job in admitted)
    told = {tenant: int(count) for tenant, count in client.hgetall(keys("admitted", pool)).items()}
    assert told == dict(by_tenant), f"{pool}: admitted is not windows and running"
    bulk = [
        client.hget(keys("job", job), "tenant")
        for job in admitted
        if client.hget(keys("job", job), "lane") == "bulk"
    ]
    told = {tenant: int(count) for tenant, count in client.hgetall(keys("admitted_bulk", pool)).items()}
    assert told == dict(Counter(bulk)), f"{pool}: admitted_bulk is not the bulk of them"
    counted = {tenant: int(count) for tenant, count in client.hgetall(keys("waiting", pool)).items()}
    assert counted == dict(waiting), f"{pool}: waiting is miscounted"
