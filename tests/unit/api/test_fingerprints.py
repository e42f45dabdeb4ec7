"""The names of shared prefixes."""

from __future__ import annotations

from typing import Any

import pytest

from api.admission.fingerprints import MIN_PREFIX, affinity_of

LONG = "x" * MIN_PREFIX


@pytest.mark.parametrize(
    ("request_", "explicit"),
    [
        ({"prompt": LONG}, None),
        ({"messages": [{"role": "system", "content": LONG}]}, None),
        ({"system": LONG, "messages": [{"role": "user", "content": "hi"}]}, None),
        ({"system": [{"type": "text", "text": LONG}], "messages": []}, None),
        ({"prompt_cache_key": "k"}, None),
        ({}, "k"),
    ],
)
def test_a_prefix_is_shared_within_a_tenant(request_: dict[str, Any], explicit: str | None) -> None:
    names = [affinity_of(request_, explicit, tenant) for tenant in ("alice", "alice", "bob", None)]
    assert names[0] == names[1]
    assert len({*names}) == 3


def test_an_adapter_counts_more_than_a_prefix_and_less_than_a_name() -> None:
    first, second = (affinity_of({"prompt": LONG}, None, tenant, "sql") for tenant in ("alice", "bob"))
    assert first == second is not None
    assert first not in {affinity_of({"prompt": LONG}, adapter="other"), affinity_of({"prompt": LONG})}
    assert affinity_of({}, "k", adapter="sql") == affinity_of({}, "k")
