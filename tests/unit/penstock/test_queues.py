"""Queues with both clients and the command line, over a real socket."""

from __future__ import annotations

import json

import pytest

from penstock import AsyncPenstock, errors
from tests.unit.penstock.double import ID, error, job, pool
from tests.unit.penstock.test_cli import lines, run


@pytest.fixture
def pools(server):
    tenants = [{"tenant": "alice", "queued": 1200, "active": 2}, {"tenant": "bob", "queued": 34, "active": 0}]
    server.pools = [pool(tenants=tenants), pool(pool="other", tenants=[])]
    return server.pools


def test_queues_and_their_tenants_are_typed(pools, client):
    one, other = client.pools.list()
    assert (one.pool, one.queued, one.lanes[3].oldest_s) == ("default", 1234, 75.0)
    assert [(tenant.tenant, tenant.queued, tenant.active) for tenant in one.tenants] == [
        ("alice", 1200, 2),
        ("bob", 34, 0),
    ]
    assert (other.pool, other.tenants) == ("other", ())


def test_a_pool_is_paused_resumed_and_purged(pools, server, client):
    assert client.pools.pause("default").paused
    assert not client.pools.resume("default").paused
    assert client.pools.purge("default", "low") == 1234
    seen = [(request.method, request.path) for request in server.seen]
    assert seen == [
        ("POST", "/v1/queues/default/pause"),
        ("POST", "/v1/queues/default/resume"),
        ("DELETE", "/v1/queues/default/low"),
    ]
    with pytest.raises(errors.NotFoundError, match="pool_not_found"):
        client.pools.pause("none")
    for call in (
        lambda: client.pools.pause(" "),
        lambda: client.pools.purge("", "low"),
        lambda: client.pools.purge("default", ""),
    ):
        with pytest.raises(ValueError, match="empty"):
            call()


def test_a_queued_job_is_changed(server, client):
    server.job = job(position=7, eta_s=12.5)
    moved = client.jobs.change(ID, priority="high")
    assert (moved.priority, moved.position, moved.eta_s) == ("high", 7, 12.5)
    assert client.jobs.change(ID, top=True).position == 0
    assert [json.loads(request.body) for request in server.seen] == [{"priority": "high"}, {"top": True}]
    assert {request.method for request in server.seen} == {"PATCH"}
    with pytest.raises(ValueError, match="priority"):
        client.jobs.change(ID)
    server.faults.append((409, {}, error("job_not_queued")))
    with pytest.raises(errors.ConflictError, match="job_not_queued"):
        client.jobs.change(ID, top=True)


@pytest.mark.asyncio
async def test_the_asynchronous_client_does_the_same(pools, server):
    async with AsyncPenstock(server.url) as client:
        assert (await client.pools.pause("default")).paused
        assert not (await client.pools.resume("default")).paused
        assert await client.pools.purge("default", "low") == 1234
        assert (await client.jobs.change(ID, priority="bulk", top=True)).priority == "bulk"
        await client.submit({"model": "m"}, affinity_key="chat-42", coalesce=True, store=False)
    sent = json.loads(server.seen[-1].body)
    assert (sent["affinity_key"], sent["coalesce"], sent["store"]) == ("chat-42", True, False)


def test_what_is_not_asked_for_is_not_sent(server, client):
    client.submit({"model": "m"})
    assert {"affinity_key", "coalesce", "store"}.isdisjoint(json.loads(server.seen[0].body))


def test_what_a_job_says_of_its_standing(server, client):
    late = {"code": "infeasible_deadline", "message": "late", "param": "expires_in_s", "estimate_s": 30.5}
    server.job = job(position=3, eta_s=30.0, coalesced_with="job_other", warnings=[late])
    got = client.submit({"model": "m"}, expires_in_s=10)
    assert (got.position, got.eta_s, got.coalesced_with) == (3, 30.0, "job_other")
    assert [(w.code, w.param, w.estimate_s) for w in got.warnings] == [
        ("infeasible_deadline", "expires_in_s", 30.5)
    ]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "invalid_api_key", errors.AuthenticationError),
        (429, "queue_full", errors.RateLimitedError),
        (429, "gpu_busy", errors.RateLimitedError),
        (503, "queue_timeout", errors.UnavailableError),
        (503, "no_worker", errors.UnavailableError),
        (500, "internal_error", errors.ServerError),
    ],
)
def test_each_refusal_has_its_class(server, client, status, code, kind):
    server.faults.extend([(status, {"retry-after": "0"}, error(code))] * 5)
    with pytest.raises(kind) as caught:
        client.jobs.get(ID)
    assert (type(caught.value), caught.value.code, caught.value.retry_after) == (kind, code, 0)


def test_ls_shows_lanes_and_tenants(pools, server):
    done = run(server, "queue", "list")
    assert [one["pool"] for one in lines(done)] == ["default", "other"]
    pools[1]["paused"] = True
    shown = run(server, "queue", "list", "--text").stdout
    for words in (
        "oldest",
        "mean run",
        "low",
        "1234",
        "1m",
        "1.2s",
        "other (paused)",
        "alice",
        "1200",
        "bob",
    ):
        assert words in shown, words
    pools[0]["tenants"] = [{"tenant": "default", "queued": 1, "active": 0}]
    assert "tenant " not in run(server, "queue", "list", "--text").stdout


def test_pause_and_resume_say_how_it_stands(pools, server):
    done = run(server, "queue", "pause", "default", "--text")
    assert done.stdout == "default is paused: 1234 queued, 2 running\n"
    assert lines(run(server, "queue", "resume", "default"))[0]["paused"] is False
    done = run(server, "queue", "pause", "none")
    assert (done.returncode, done.stderr) == (4, "penstock: 404 pool_not_found: no\n")
    assert run(server, "queue", "pause", " ").returncode == 2


def test_purge_asks_before_it_cancels(pools, server):
    for stdin, said in ((b"n\n", "nothing was cancelled"), (b"", "nobody answered; give --yes")):
        done = run(server, "queue", "purge", "default", "low", stdin=stdin)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Cancel 1234 jobs waiting in default/low? [y/N]" in done.stderr
        assert said in done.stderr
    assert not [request for request in server.seen if request.method == "DELETE"]
    done = run(server, "queue", "purge", "default", "low", stdin=b"y\n")
    assert lines(done) == [{"pool": "default", "lane": "low", "cancelled": 1234}]
    done = run(server, "queue", "purge", "default", "low", "--yes", "--text")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 jobs cancelled\n", "")
    assert run(server, "queue", "purge", "default", "fast", "--yes").returncode == 2


def test_priority_and_top_say_where_the_job_stands(server):
    server.job = job(position=12, eta_s=200.0)
    done = run(server, "jobs", "move", ID, "--priority", "high", "--text")
    assert done.stdout == f"{ID} high, 12 before it, starts in about 3 m\n"
    assert (
        run(server, "jobs", "move", "--top", ID, "--text").stdout == f"{ID} high, next, starts in about 3 m\n"
    )
    assert [one["position"] for one in lines(run(server, "jobs", "move", "--top", ID))] == [0]
    assert run(server, "jobs", "move", ID, "--priority", "realtime").returncode == 2
    server.faults.append((409, {}, error("job_not_queued")))
    assert run(server, "jobs", "move", ID, "--priority", "low").returncode == 4


def test_submit_list_and_get_show_what_is_new(server):
    done = run(
        server,
        "submit",
        "hello",
        "--affinity-key",
        "chat-42",
        "--coalesce",
        "--temperature",
        "0",
        "--no-store",
    )
    assert done.returncode == 0
    sent = json.loads(server.asked("/v1/jobs")[0].body)
    assert (sent["affinity_key"], sent["coalesce"], sent["store"]) == ("chat-42", True, False)
    late = {"code": "infeasible_deadline", "message": "it would take about 30.0 s"}
    server.job = job(position=3, eta_s=30.0, coalesced_with="job_other", warnings=[late])
    shown = " ".join(run(server, "jobs", "get", ID, "--text").stdout.split())
    for words in (
        "position 3 before it, starts in about 30 s",
        "runs as job_other",
        "it would take about 30.0 s",
    ):
        assert words in shown, words
    server.jobs = [job(id="job_1", position=3, eta_s=30.0)]
    shown = run(server, "jobs", "list", "--text").stdout
    assert "position" in shown
    assert "30 s" in shown
