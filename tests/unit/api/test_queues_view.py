"""The queues, as callers with different rights see them."""

from __future__ import annotations

import pytest

from api.operations.queues import pool_view
from broker.queues import PoolView, TenantView
from jobs.access import KEYLESS, TENANT_SCOPES, Identity, Scope

POOL = PoolView("default", False, 0, 1, None, None, None, (), tuple(TenantView(name, 1, 0) for name in "ab"))


@pytest.mark.parametrize(
    ("identity", "seen"),
    [
        (Identity("a", TENANT_SCOPES), ["a"]),
        (Identity("c", TENANT_SCOPES), []),
        (Identity("a", frozenset({Scope.METRICS})), ["a", "b"]),
        (Identity("c", frozenset({Scope.ADMIN})), ["a", "b"]),
        (KEYLESS, ["a", "b"]),
    ],
)
def test_other_tenants_are_shown_only_with_the_scope_metrics(identity: Identity, seen: list[str]) -> None:
    assert [tenant["tenant"] for tenant in pool_view(POOL, identity)["tenants"]] == seen
