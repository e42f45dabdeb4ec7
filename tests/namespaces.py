"""Each test's own part of the Redis that they share: made, checked and emptied."""

from __future__ import annotations

import uuid

from redis import Redis

from broker.db.keys import Keys
from broker.settings import BrokerSettings
from penstock.server.valkey import EmbeddedServer
from tests.invariants import check_queues
from tests.lifetimes import check_lifetimes

LEASE_S = 120.0
"""A worker that a test plays beats when the test says so, and on a busy machine a server alone may start for 15 s."""


def new_namespace(server: EmbeddedServer) -> BrokerSettings:
    return settings_in(server.url, f"t{uuid.uuid4().hex[:12]}")


def settings_in(redis_url: str, namespace: str) -> BrokerSettings:
    """Settings of a store; processes get the address and the namespace alone."""
    return BrokerSettings(redis_url=redis_url, namespace=namespace, lease_ttl_s=LEASE_S)


def check_and_empty(settings: BrokerSettings) -> None:
    """Fail for keys that should not be there or do not agree; delete all."""
    keys = Keys(settings.namespace)
    with Redis.from_url(settings.redis_url, decode_responses=True) as client:
        try:
            client.client_pause(
                10_000, all=False
            )  # several reads see one state, whatever an api writes meanwhile
            check_lifetimes(client, keys)
            check_queues(client, keys)
        finally:  # the next test finds it empty, whatever this one left
            client.client_unpause()
            # A call whose client left may still be accepted meanwhile: some of its keys come where the scan has been.
            while left := list(client.scan_iter(f"{settings.namespace}*", count=1000)):
                client.delete(*left)
