"""Whatever any caller sends to any operation: no server error, and nothing of another tenant in the answer."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error

from jobs.access import Scope
from tests.security import routes
from tests.security.identities import bearer
from tests.security.world import Caller, World

CALLERS = ("none", "unknown", "revoked", "bob", "bob, metrics", "admin", *sorted(Scope))
UNENDING = {"running", "streaming", "queued", "chunk"}
"""States of jobs and batches whose events have no end yet: whoever may follow them would wait for ever."""

UNAVAILABLE = {"queue_timeout", "no_worker"}
"""Codes of a 503 that are right: no worker takes the calls."""


def foreign(world: World, caller: Caller, route: routes.Route) -> list[str]:
    """Return ids of the first tenant's objects for a route's path."""
    ended = world.alice.name in caller.sees
    found = world.alice.ids(route.kind or "").items()
    return [ident for state, ident in found if not (ended and state in UNENDING)]


def with_ids(value: Any, ids: dict[str, str]) -> Any:
    """Return a body in which the fields of these names name other objects."""
    if not isinstance(value, dict):
        return value
    return {name: ids.get(name, one) for name, one in value.items()}


@pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)  # of Hypothesis, for Schemathesis
@pytest.mark.full
@pytest.mark.parametrize("route", routes.ALL, ids=str)
def test_no_answer_fails_or_tells_of_another_tenant(world: World, route: routes.Route) -> None:
    operation = routes.operations()[str(route)]
    good_and_bad = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]
    files = {"input_file_id": world.alice.objects["file", "unused"]}

    @given(
        case=st.one_of(good_and_bad),
        name=st.sampled_from(CALLERS),
        real=st.booleans(),
        which=st.integers(0, 100),
    )
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def check(case: schemathesis.Case, name: str, real: bool, which: int) -> None:
        caller = world.caller(name)
        ids = foreign(world, caller, route)
        if real and ids:
            (parameter, *_) = case.path_parameters
            case.path_parameters[parameter] = ids[which % len(ids)]
        if real:
            case.body = with_ids(case.body, files)
        response = case.call(base_url=world.url, headers=bearer(caller.key), timeout=30)
        sent = f"{case.path_parameters} {case.query} {case.headers} {case.body}"
        found = world.leaks(caller, f"{response.headers} {response.text}", sent)
        assert not found, f"{name} learns {found}"
        refused = response.json().get("error", {}) if response.status_code == 503 else {}
        relayed = "x-penstock-job-id" in response.headers
        if refused.get("code") not in UNAVAILABLE and not relayed and route.kind != "health":
            case.validate_response(response, checks=[not_a_server_error])

    check()
