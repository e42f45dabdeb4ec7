"""Each test's own part of the Redis that they share: made, checked and emptied."""

from __future__ import annotations

import uuid

from redis import Redis

from broker.db.keys import Keys
from broker.settings import BrokerSettings
from penstock.server.valkey import EmbeddedServer
from tests.invariants import check_queues


def new_namespace(server: EmbeddedServer) -> BrokerSettings:
    return BrokerSettings(redis_url=server.url, namespace=f"t{uuid.uuid4().hex[:12]}")


def check_and_empty(settings: BrokerSettings, *keep: str) -> None:
    """Fail for keys that should not be there or do not agree; delete all but those with the names ``keep``."""
    keys = Keys(settings.namespace)
    kept = {keys(name) for name in keep}
    with Redis.from_url(settings.redis_url, decode_responses=True) as client:
        try:
            check_lifetimes(client, keys)
            check_queues(client, keys)
        finally:  # the next test finds it empty, whatever this one left
            for key in client.scan_iter(f"{settings.namespace}*", count=1000):
                if key not in kept:
                    client.delete(key)


def check_lifetimes(client: Redis, keys: Keys) -> None:
    """Fail for a finished job's record or log, or an idempotency key, without a lifetime (schema: broker/db/keys.py)."""
    endless = []
    for key in client.scan_iter(f"{keys.namespace}:*", count=1000):
        if client.ttl(key) != -1:
            continue
        kind = key.split(":")[1]
        finished = kind in {"job", "log"} and client.hget(keys("job", key.split(":")[2]), "finished")
        if finished or kind == "idem":
            endless.append(key)
    assert not endless, f"keys without the TTL that the schema demands: {endless}"
