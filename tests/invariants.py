"""What must hold of a pool's queue at any moment (``broker/lua/2_queue.lua``): every job in one place, and every count right."""

from __future__ import annotations

from collections import Counter
from typing import Any

from broker.db.keys import Keys
from jobs.lanes import Lane

FIELDS = ("state", "pool", "lane", "tenant", "leader", "worker")


def check_queues(client: Any, keys: Keys) -> None:
    """Fail where the parts of a queue do not agree with each other or with the records.

    Args:
        client: a synchronous :class:`redis.Redis` with decoded responses.
        keys: of the namespace.
    """
    pipe, ids = client.pipeline(transaction=False), client.zrange(keys("jobs"), 0, -1)
    for job in ids:
        pipe.hmget(keys("job", job), FIELDS)
    jobs = {
        job: dict(zip(FIELDS, values, strict=True)) for job, values in zip(ids, pipe.execute(), strict=True)
    }
    places = Counter(client.zrange(keys("delayed"), 0, -1))
    for pool in client.smembers(keys("pools")):
        _check_pool(client, keys, pool, {job: j for job, j in jobs.items() if j["pool"] == pool}, places)
    queued = {job for job, j in jobs.items() if j["state"] == "queued"}
    assert places == Counter(queued), (
        f"not in one place: {places - Counter(queued)} {Counter(queued) - places}"
    )
    running = {(j["worker"], job) for job, j in jobs.items() if j["state"] == "running"}
    workers = {*client.zrange(keys("leases"), 0, -1), *(worker for worker, _ in running)}
    assert running == {(w, job) for w in workers for job in client.smembers(keys("worker_jobs", w))}, (
        "workers' jobs"
    )


def _check_pool(client: Any, keys: Keys, pool: str, jobs: dict[str, Any], places: Counter[str]) -> None:
    facts, parked = client.hgetall(keys("pool", pool)), client.hgetall(keys("parked", pool))
    for lane in Lane:
        prefix = keys("backlog", pool, lane, "")
        backlogs = {
            key.removeprefix(prefix): client.zrange(key, 0, -1)
            for key in client.scan_iter(f"{prefix}*", 1000)
        }
        turns = dict(client.zrange(keys("turns", pool, lane), 0, -1, withscores=True))
        assert turns.keys() == backlogs.keys(), f"{lane}: turns are not those of the backlogs"
        here = {name.partition(" ")[2] for name in parked if name.startswith(f"{lane} ")}
        assert here == {tenant for tenant in turns if turns[tenant] == float("inf")}, f"{lane}: parked"
        tags = client.hkeys(keys("tags", pool, lane))
        assert backlogs.keys() - {""} <= set(tags), f"{lane}: a tenant waits and its line has no end"
        assert backlogs or not tags, f"{lane}: an empty lane keeps turns"
        for tenant, ids in backlogs.items():
            places.update(ids)
            wrong = [
                job for job in ids if jobs[job]["lane"] != lane or tenant not in {"", jobs[job]["tenant"]}
            ]
            assert not wrong, f"{wrong} wait in {lane}, of {tenant!r}"
        depth = sum(map(len, backlogs.values()))
        assert int(facts.get(f"depth:{lane}", 0)) == depth, f"{lane}: depth is not the backlogs' {depth}"
    attached = {
        job: j for job, j in jobs.items() if j["state"] == "queued" and not places[job] and j["leader"]
    }
    places.update(list(attached))
    assert all(client.sismember(keys("followers", j["leader"]), job) for job, j in attached.items()), (
        "not followers"
    )
    lanes = Counter(f"attached:{j['lane']}" for j in attached.values())
    told = {name: int(count) for name, count in facts.items() if name.startswith("attached:") and int(count)}
    assert told == lanes, f"{told} are counted as attached, not {lanes}"
    _same(client, keys("attached", pool), Counter(f"{j['lane']} {j['tenant']}" for j in attached.values()))
    running = [j for j in jobs.values() if j["state"] == "running"]
    bulk = [j for j in running if j["lane"] == Lane.BULK]
    assert (int(facts.get("active", 0)), int(facts.get("bulk", 0))) == (len(running), len(bulk)), (
        "running jobs"
    )
    _same(client, keys("active", pool), Counter(j["tenant"] for j in running))
    _same(client, keys("active_bulk", pool), Counter(j["tenant"] for j in bulk))


def _same(client: Any, key: str, counts: Counter[str]) -> None:
    told = {name: int(count) for name, count in client.hgetall(key).items() if int(count)}
    assert told == counts, f"{key}: {told} is not {counts}"
