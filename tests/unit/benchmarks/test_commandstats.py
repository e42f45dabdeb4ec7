"""`benchmarks/_commandstats.py`: Valkey's own account of what a piece of work cost."""

from __future__ import annotations

import importlib

import pytest
import redis.asyncio

from penstock.server.valkey import EmbeddedServer


def line(calls: int, usec: int) -> dict[str, float]:
    return {"calls": calls, "usec": usec, "usec_per_call": usec / calls}


def test_a_script_counts_with_what_it_calls_and_its_commands_count_once() -> None:
    stats = importlib.import_module("_commandstats")
    seen = {
        "cmdstat_evalsha": line(2, 100),
        "cmdstat_hset": line(6, 30),
        "cmdstat_zadd": line(2, 8),
        "cmdstat_blmpop": line(1, 7),
        "cmdstat_config|resetstat": line(1, 50),
        "cmdstat_info": line(1, 500),
        "cmdstat_client|setinfo": line(2, 3),
    }
    assert stats.read(seen) == stats.Cost(us=107, commands=9, calls=2)
    assert stats.read(seen) / 2 == stats.Cost(us=53.5, commands=4.5, calls=1)


def test_functions_count_as_scripts_do() -> None:
    stats = importlib.import_module("_commandstats")
    seen = {"cmdstat_fcall": line(1, 40), "cmdstat_fcall_ro": line(1, 10), "cmdstat_hget": line(3, 9)}
    assert stats.read(seen) == stats.Cost(us=50, commands=3, calls=2)


def test_a_command_that_both_a_script_and_the_client_send_counts_by_its_mean() -> None:
    stats = importlib.import_module("_commandstats")
    seen = {"cmdstat_evalsha": line(1, 20), "cmdstat_hmget": line(4, 12)}
    assert stats.read(seen, {"hmget": 1, "zcard": 1}).us == 23


def test_a_median_leaves_out_a_disturbed_batch() -> None:
    stats = importlib.import_module("_commandstats")
    costs = [stats.Cost(10, 4, 1), stats.Cost(12, 4, 1), stats.Cost(9_000, 5, 1)]
    assert stats.median(costs) == stats.Cost(12, 4, 1)


@pytest.mark.asyncio
async def test_a_meter_reads_a_real_server(valkey: EmbeddedServer) -> None:
    stats = importlib.import_module("_commandstats")
    async with redis.asyncio.from_url(valkey.url) as client, redis.asyncio.from_url(valkey.url) as other:
        script = "for i = 1, 50 do redis.call('SET', KEYS[1], i) end return redis.call('DEL', KEYS[1])"
        cost, reply = await stats.Meter(client).cost(other.eval(script, 1, "bench:meter"))
        assert reply == 1
        assert (cost.commands, cost.calls) == (51, 1)
        assert cost.us > 0
