"""What Penstock relies on in every supported server: Redis 7.0, 7.2 and 8.2, Valkey 8.1 and 9.1.

``tools/setup_redis_servers.py`` gets them: Redis 7.0 on Debian 12, the others on Linux with x86-64. Elsewhere the tests on
them are skipped, and so nothing is proved there of any server but the embedded one (Valkey 9.1). No other release of these
lines, no cluster and no managed service is tried.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.model import Succeeded
from jobs.states import JobState
from tests.integration.test_worker import chat, ended, read, ready, start_worker, submit
from tests.servers import REDIS_SERVERS, ServerVersion, VersionedServer, every_server

__all__ = ["ready", "start_worker"]

pytestmark = pytest.mark.asyncio

OLD_DATA = Path(__file__).parents[1] / "data" / "schema_2"

LIBRARY = """#!lua name=contract
local calls = 0
redis.register_function('contract_echo', function(_, args)
  return {cmsgpack.pack(cmsgpack.unpack(args[1])), args[2], false}
end)
redis.register_function('contract_type', function(_, args) return type(cmsgpack.unpack(args[1]).value) end)
redis.register_function{function_name = 'contract_count', flags = {'no-writes'},
  callback = function() calls = calls + 1; return calls end}
redis.register_function{function_name = 'contract_peek', flags = {'no-writes'},
  callback = function(_, args) return redis.call('SET', args[1], 'x') end}
redis.register_function('contract_write', function(_, args) return redis.call('SET', args[1], 'x') end)
redis.register_function{function_name = 'contract_end', flags = {'allow-oom'},
  callback = function(_, args) return redis.call('SET', args[1], 'x') end}
redis.register_function('contract_number', function(_, args)
  redis.call('SET', args[1], string.format('%.0f', tonumber(args[2])))
  return redis.call('GET', args[1])
end)
"""


@pytest.fixture
def redis(broker_settings: BrokerSettings) -> Iterator[Redis]:
    """A client of a server that has the library."""
    with Redis.from_url(broker_settings.redis_url) as client:
        client.function_load(LIBRARY)
        yield client
        client.function_delete("contract")


@pytest.fixture
def key(broker_settings: BrokerSettings, redis: Redis) -> Iterator[str]:
    name = f"{broker_settings.namespace}:contract"
    yield name
    redis.delete(name)  # the schema does not know it


def echo(client: Redis, value: Any, blob: bytes = b"") -> tuple[Any, bytes]:
    """Send a value through Lua as msgpack, and bytes beside it."""
    packed, same, nothing = client.fcall("contract_echo", 0, msgspec.msgpack.encode(value), blob)
    assert nothing is None
    return msgspec.msgpack.decode(packed), same


@every_server
async def test_the_server_is_of_its_version(valkey: VersionedServer) -> None:
    with Redis.from_url(valkey.url) as client:
        assert valkey.version.told_by(client.info("server"))


@every_server
async def test_msgpack_passes_what_the_calls_are_made_of(redis: Redis) -> None:
    same = {
        "ints": [0, -1, 127, 128, -129, 65_536, 2**32, 1_796_003_839_910, 2**53, -(2**53)],
        "floats": [0.1, 0.5, 1 / 3, 1e300, -2.5],
        "texts": ["", "é 漢 🦀 \x00 \u2028", "x" * 40, "x" * 300, "x" * 70_000],
        "truth": [True, False],
        "nested": {"a": {"b": [1, {"c": [{"d": "e"}]}]}},
    }
    assert echo(redis, same)[0] == same
    blob = bytes(range(256)) * 4096
    assert echo(redis, 1, blob)[1] == blob


@every_server
async def test_msgpack_changes_what_lua_cannot_hold(redis: Redis) -> None:
    """Each is a rule for who writes a call: bytes go beside the map, an empty map is left out, a list has no nil."""
    assert echo(redis, {"absent": None, "there": 1})[0] == {"there": 1}
    assert echo(redis, {"map": {}})[0] == {"map": []}
    assert echo(redis, [3.0, -0.0])[0] == [3, 0]
    assert echo(redis, [1, None, 3])[0] == {1: 1, 3: 3}
    deep = json.loads("[" * 17 + "]" * 17)
    assert echo(redis, deep)[0] == json.loads("[" * 16 + "null" + "]" * 16)
    for refused in (b"bytes", msgspec.msgpack.Ext(1, b"")):
        with pytest.raises(ResponseError, match="Bad data format"):
            echo(redis, refused)
    unread = b"\x81\xa5value\xa2\xff\xfe"  # text that is not UTF-8
    assert redis.fcall("contract_type", 0, unread) == b"string"
    assert redis.fcall("contract_echo", 0, unread, b"")[0] == unread


@every_server
async def test_a_value_that_is_absent_is_nil(redis: Redis) -> None:
    assert redis.fcall("contract_type", 0, msgspec.msgpack.encode({})) == b"nil"
    assert redis.fcall("contract_type", 0, msgspec.msgpack.encode({"value": None})) == b"nil"


@every_server
async def test_a_librarys_variables_live_until_it_is_loaded_anew(
    redis: Redis, valkey: VersionedServer
) -> None:
    assert redis.fcall("contract_count", 0) == 1
    with Redis.from_url(valkey.url) as another:
        assert another.fcall("contract_count", 0) == 2
    redis.script_flush()
    assert redis.fcall("contract_count", 0) == 3
    redis.function_load(LIBRARY, replace=True)
    assert redis.fcall("contract_count", 0) == 1


@every_server
async def test_two_libraries_live_side_by_side_under_names_of_their_own(redis: Redis) -> None:
    with pytest.raises(ResponseError, match="Library 'contract' already exists"):
        redis.function_load(LIBRARY)
    with pytest.raises(ResponseError, match=r"Function contract_\w+ already exists"):
        redis.function_load(LIBRARY.replace("name=contract", "name=contract_next"))
    redis.function_load(LIBRARY.replace("contract", "successor"))
    try:
        assert redis.fcall("successor_count", 0) == 1
        assert redis.fcall("contract_count", 0) == 1
    finally:
        redis.function_delete("successor")
    with pytest.raises(ResponseError, match="Function not found"):
        redis.fcall("successor_count", 0)


@every_server
async def test_flags_say_what_a_function_may_do(redis: Redis, key: str) -> None:
    with pytest.raises(ResponseError, match="Write commands are not allowed"):
        redis.fcall("contract_peek", 0, key)
    assert redis.fcall_ro("contract_count", 0) == 1
    with pytest.raises(ResponseError, match="write flag"):
        redis.fcall_ro("contract_write", 0, key)
    redis.config_set("maxmemory", 1)
    try:
        assert redis.fcall("contract_count", 0) == 2
        assert redis.fcall("contract_end", 0, key) == b"OK"
        with pytest.raises(OutOfMemoryError):
            redis.fcall("contract_write", 0, key)
        with pytest.raises(OutOfMemoryError):
            redis.function_load(LIBRARY, replace=True)
    finally:
        redis.config_set("maxmemory", 0)


@every_server
async def test_an_integer_is_written_in_full_if_lua_formats_it(redis: Redis, key: str) -> None:
    """Redis 7.2 writes the number 200000000 as 2e+8, which no command that wants an integer takes."""
    for number in (200_000_000, 1_796_000_000_000, 1_796_003_839_910_123, 2**53):
        assert redis.fcall("contract_number", 0, key, number) == str(number).encode()


@every_server
async def test_a_retention_of_many_zeros_is_kept(store: JobStore, broker_settings: BrokerSettings) -> None:
    settings = broker_settings.model_copy(update={"retention_s": 200_000.0})
    keeping = JobStore(store.client, settings)
    job = await submit(keeping)
    assert await keeping.cancel(job) is JobState.CANCELLED
    week_ms = 604_800_000  # the reaper comes first
    assert 199_000_000 < await store.client.pttl(store.keys("job", job)) - week_ms <= 200_000_000


@every_server
async def test_a_worker_runs_jobs(store: JobStore, ready: Callable) -> None:
    """The whole way: accept, Celery, the engine, the stored result and the log of a stream."""
    await ready()
    plain = await submit(store, chat("hé 🦀", max_tokens=3))
    streamed = await submit(store, chat("hi", max_tokens=4), stream=True)
    for job in (plain, streamed):
        assert isinstance((await ended(store, job)).phase, Succeeded)
    assert (await read(store, plain)).phase.usage.completion_tokens == 3
    assert json.loads((await store.result(plain)).body)["usage"]["completion_tokens"] == 3
    assert len(await store.log(streamed, "0-0")) >= 4


@pytest.mark.parametrize("version", REDIS_SERVERS)
async def test_a_dump_of_the_oldest_server_loads(version: ServerVersion, tmp_path: Path) -> None:
    """What the version before left is taken over on any of them."""
    manifest = json.loads((OLD_DATA / "manifest.json").read_text())
    ids = {job["spec"]["id"] for job in manifest["jobs"].values()}
    with (
        VersionedServer(tmp_path, version, dump=OLD_DATA / "dump.rdb") as server,
        Redis.from_url(server.url, decode_responses=True) as client,
    ):
        prefix = f"{manifest['namespace']}:job:"
        assert {key.removeprefix(prefix) for key in client.scan_iter(f"{prefix}*", count=1000)} == ids
