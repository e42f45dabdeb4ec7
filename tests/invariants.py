"""What must hold of a queue at any moment (``broker/lua/2_queue.lua``): each job is in one place, all counts are right."""

from __future__ import annotations

from collections import Counter
from typing import Any

from broker.db.keys import Keys
from jobs.lanes import Lane

FIELDS = ("state", "pool", "lane", "tenant", "leader", "worker", "batch")
COUNTS = ("active", "bulk", *(f"{name}:{lane}" for name in ("depth", "attached") for lane in Lane))


def check_queues(client: Any, keys: Keys) -> None:
    """Fail where the parts of a queue do not agree. ``client``: a synchronous one, with decoded responses."""
    ids, pipe = client.zrange(keys("jobs"), 0, -1), client.pipeline()
    for job in ids:
        pipe.hmget(keys("job", job), FIELDS)
    jobs = {job: dict(zip(FIELDS, read, strict=True)) for job, read in zip(ids, pipe.execute(), strict=True)}
    places = Counter(client.zrange(keys("delayed"), 0, -1))
    for pool in client.smembers(keys("pools")):
        _check_pool(client, keys, pool, {job: j for job, j in jobs.items() if j["pool"] == pool}, places)
    assert places == Counter(job for job, j in jobs.items() if j["state"] == "queued"), "not in one place"
    _check_tenants(client, keys, jobs)
    running = {(j["worker"], job) for job, j in jobs.items() if j["state"] == "running"}
    workers = {*client.zrange(keys("leases"), 0, -1), *(worker for worker, _ in running)}
    assert running == {(w, job) for w in workers for job in client.smembers(keys("worker_jobs", w))}


def _check_tenants(client: Any, keys: Keys, jobs: dict[str, Any]) -> None:
    """Each tenant's indexes have its jobs, with the scores of the common ones, and no chunk of a batch."""
    tenants = {job: j["tenant"] for job, j in jobs.items() if j["tenant"] and not j["batch"]}
    for name, own in (("jobs", "jobs_of"), ("dead", "dead_of")):
        whole = client.zrange(keys(name), 0, -1, withscores=True)
        wanted = {(tenants[job], job, at) for job, at in whole if job in tenants}
        prefix = keys(own, "")
        found = {
            (key.removeprefix(prefix), job, at)
            for key in client.scan_iter(f"{prefix}*", 1000)
            for job, at in client.zrange(key, 0, -1, withscores=True)
        }
        assert found == wanted, f"{own} are not those of {name}"


def _check_pool(client: Any, keys: Keys, pool: str, jobs: dict[str, Any], places: Counter[str]) -> None:
    counts, parked = Counter[str](), set()
    for lane in Lane:
        prefix = keys("backlog", pool, lane, "")
        names = client.scan_iter(f"{prefix}*", 1000)
        lines = {name.removeprefix(prefix): client.zrange(name, 0, -1) for name in names}
        turns = dict(client.zrange(keys("turns", pool, lane), 0, -1, withscores=True))
        assert turns.keys() == lines.keys(), f"{lane}: turns are not those of the backlogs"
        parked |= {f"{lane} {tenant}" for tenant, turn in turns.items() if turn == float("inf")}
        tags = {*client.hkeys(keys("tags", pool, lane))}
        assert lines.keys() - {""} <= tags if lines else not tags, f"{lane}: where lines end"
        for tenant, ids in lines.items():
            assert all(jobs[job]["lane"] == lane and tenant in {"", jobs[job]["tenant"]} for job in ids)
            counts[f"depth:{lane}"] += len(ids)
            places.update(ids)
    assert parked == {*client.hkeys(keys("parked", pool))}, "parked tenants are not those without a turn"
    queued = {job: j for job, j in jobs.items() if j["state"] == "queued"}
    attached = {job: j for job, j in queued.items() if j["leader"] and not places[job]}
    assert all(client.sismember(keys("followers", j["leader"]), job) for job, j in attached.items())
    places.update(list(attached))
    running = [j for j in jobs.values() if j["state"] == "running"]
    bulk = [j for j in running if j["lane"] == Lane.BULK]
    counts.update({"active": len(running), "bulk": len(bulk)})
    counts.update(f"attached:{j['lane']}" for j in attached.values())
    found = client.hmget(keys("pool", pool), COUNTS)
    assert [int(count or 0) for count in found] == [counts[name] for name in COUNTS], COUNTS
    waits = Counter(f"{j['lane']} {j['tenant']}" for j in attached.values())
    by_tenant = [waits, *(Counter(j["tenant"] for j in some) for some in (running, bulk))]
    for name, some in zip(("attached", "active", "active_bulk"), by_tenant, strict=True):
        assert Counter({one: int(n) for one, n in client.hgetall(keys(name, pool)).items()}) == some, name
