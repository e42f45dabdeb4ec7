"""Two tenants and an administrator against every route of the OpenAPI document: whose key opens what, and whose object."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from api.access.scopes import ROUTES, Needs
from jobs.access import Scope
from tests.security import routes
from tests.security.identities import ALICE, BOB
from tests.security.routes import Route
from tests.security.world import Answer, Caller, World

NO_KEYS = ("none", "garbage", "unknown", "expired", "revoked", "rotated out")
"""Callers whom no guarded route answers."""

REFUSED = {401, 403}
NOTHING_OF = {"fields": "that no route takes"}
"""A body that every route refuses before it does anything."""

REFERENCES = {
    "POST /v1/batches input_file_id": "file",
    "POST /v1/dead/retry ids": "job",
    "GET /v1/files after": "file",
    "GET /v1/batches after": "batch",
    "GET /v1/chat/completions after": "chat",
    "GET /v1/webhooks after": "webhook",
    "POST /v1/responses previous_response_id": "response",
}
"""Fields of bodies and parameters of queries that name an object, and the kind of it."""

NO_REFERENCES = {
    "GET /v1/jobs after",  # a cursor that names no job
    "GET /v1/dead after",
    "GET /v1/jobs/{job_id}/events after",  # a place in the job's own log
    "GET /v1/jobs/{job_id}/stream starting_after",
    "GET /v1/chat/completions/{completion_id} starting_after",
    "GET /v1/chat/completions/{completion_id}/messages after",  # a message of the chat completion
    "GET /v1/responses/{response_id} starting_after",
    "GET /v1/responses/{response_id}/input_items after",  # an item of the response
    "GET /v1/conversations/{conversation_id}/items after",  # an item of the conversation
    "GET /v1/batches/{batch_id}/results after",  # a row of the batch
    "GET /v1/webhooks/{webhook_id}/deliveries after",  # an entry of the endpoint
    "GET /v1/webhooks/{webhook_id}/dead after",
    "POST /v1/files expires_after[anchor]",
    "POST /v1/files expires_after[seconds]",
    "POST /v1/batches output_expires_after",
    "GET /v1/jobs created_after",
    "POST /v1/chat/completions stop_token_ids",
    "POST /v1/completions stop_token_ids",
}
"""Fields that look as if they did."""


def every(found: list[Route]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("route", found, ids=str)


def harmless(world: World, caller: Caller, route: Route) -> Answer:
    """Call a route so that nothing comes of it: for an object that does not exist, with a body that is refused."""
    given = {"json": NOTHING_OF} if route.has_body else {}
    return world.ask(caller, route.method, route.url(), **given)


def test_every_route_is_in_the_document() -> None:
    documented = {(route.method, re.sub(r":path}", "}", route.path)) for route in routes.ALL}
    table = {(method, path.replace(":path}", "}")): needs for (method, path), needs in ROUTES.items()}
    hidden = {place: needs for place, needs in table.items() if place not in documented}
    heads = {("HEAD", path) for path in ("/health", "/health/accepting", "/health/live", "/health/ready")}
    # The console's pages ask these routes with the caller's own credential; tests/integration/test_console.py.
    console = {place for place in hidden if place[1].startswith("/console")}
    assert hidden.keys() == {("GET", "/"), ("GET", "/docs"), ("GET", "/docs/{name}")} | heads | console
    assert set(hidden.values()) == {Needs.NOTHING}


@every(routes.GUARDED)
def test_no_route_answers_without_a_good_key(world: World, route: Route) -> None:
    answers = {name: harmless(world, world.caller(name), route) for name in NO_KEYS}
    for name, got in answers.items():
        assert (got.status, got.code) == (401, "invalid_api_key"), name
        assert got.headers["www-authenticate"] == "Bearer"
    assert answers["unknown"].without() == answers["revoked"].without() == answers["rotated out"].without()


@every([route for route in routes.ALL if route.needs is Needs.NOTHING])
def test_an_open_route_needs_no_key(world: World, route: Route) -> None:
    assert harmless(world, world.caller("none"), route).status in {200, 503}


@every(routes.SCOPED)
@pytest.mark.parametrize("scope", Scope)
def test_a_route_opens_to_its_scope_alone(world: World, route: Route, scope: Scope) -> None:
    got = harmless(world, world.caller(scope), route)
    opens = scope in {route.needs, Scope.ADMIN}
    assert (got.status not in REFUSED) is opens, got
    if not opens:
        assert (got.status, got.code) == (403, "insufficient_scope")


@pytest.mark.parametrize("name", ["rotated", "rotated, old"])
def test_both_secrets_of_a_rotated_key_open_during_the_overlap(world: World, name: str) -> None:
    for route in routes.GUARDED:
        if route.needs in {Needs.KEY, Scope.JOBS_READ}:
            assert harmless(world, world.caller(name), route).status not in REFUSED, route


@every([*routes.OF_TENANTS, *routes.ADMINISTERED])
def test_another_tenants_object_is_as_one_that_does_not_exist(
    world: World, untouched: None, route: Route
) -> None:
    assert route.kind is not None
    body = world.body(route)
    missing = routes.MISSING[route.kind]
    nothing = world.ask(world.caller("bob"), route.method, route.url(), **body).without(missing)
    assert nothing.status == (403 if route.needs is Scope.ADMIN else 404)
    for state, ident in world.alice.ids(route.kind).items():
        for caller in (world.caller("bob"), world.caller("bob, metrics")):
            got = world.ask(caller, route.method, route.url(ident), **body)
            assert got.without(ident) == nothing, state


@pytest.fixture
def untouched(world: World) -> Iterator[None]:
    """Fail if a test changes a record of the other tenant."""
    before = world.records()
    yield
    assert world.records() == before


@every([route for route in routes.OF_TENANTS if route.kind == "job"])
def test_a_chunk_is_nobodys_but_the_batchs(world: World, untouched: None, route: Route) -> None:
    chunk = world.alice.objects["job", "chunk"]
    nothing = world.ask(world.caller("alice"), route.method, route.url(), **world.body(route))
    got = world.ask(world.caller("alice"), route.method, route.url(chunk), **world.body(route))
    assert got.without(chunk) == nothing.without(routes.MISSING["job"])


def test_every_field_that_names_an_object_is_known() -> None:
    named = {
        f"{route} {name}"
        for route in routes.ALL
        if route.needs is not Scope.ADMIN
        for name in fields(route)
        if re.search(r"ids?\b|after", name)
    }
    assert named == {*REFERENCES, *NO_REFERENCES}


def fields(route: Route) -> Iterator[str]:
    """Name the fields of a route's body and query."""
    yield from (one["name"] for one in route.operation.get("parameters", []) if one["in"] == "query")
    for content in route.operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        if "$ref" in schema:
            schema = routes.DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        yield from schema.get("properties", {})


@pytest.mark.parametrize("place", REFERENCES)
def test_a_field_cannot_name_another_tenants_object(world: World, untouched: None, place: str) -> None:
    method, path, name = place.split()
    kind = REFERENCES[place]

    def ask(ident: str) -> Answer:
        if method == "GET":
            return world.ask(world.caller("bob"), method, path, params={name: ident})
        (route,) = (one for one in routes.ALL if str(one) == f"{method} {path}")
        body = world.body(route)["json"] | {name: [ident] if name.endswith("s") else ident}
        return world.ask(world.caller("bob"), method, path, json=body)

    nothing = ask(routes.MISSING[kind]).without(routes.MISSING[kind])
    for state, ident in world.alice.ids(kind).items():
        assert ask(ident).without(ident) == nothing, state


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/v1/jobs", "job"), ("/v1/files", "file"), ("/v1/batches", "batch"), ("/v1/webhooks", "webhook")],
)
def test_lists_show_ones_own(world: World, path: str, kind: str) -> None:
    def listed(caller: Caller) -> set[str]:
        text = world.ask(caller, "GET", f"{path}?limit=100").text
        known = [one for tenant in world.tenants.values() for one in tenant.ids(kind).values()]
        return {ident for ident in known if ident in text}

    def own(*names: str) -> set[str]:
        of = (world.tenants[name].ids(kind).items() for name in names)
        return {ident for one in of for state, ident in one if state != "chunk"}

    assert listed(world.caller("alice")) == own(world.alice.name)
    assert listed(world.caller("bob")) == own(world.bob.name)
    assert listed(world.caller("admin")) >= own(*world.tenants)


def test_the_dead_are_ones_own(world: World) -> None:
    dead = {name: tenant.objects["job", "dead"] for name, tenant in world.tenants.items()}
    for caller in (world.caller("alice"), world.caller("bob"), world.caller("admin")):
        text = world.ask(caller, "GET", "/v1/dead").text
        assert {name for name, ident in dead.items() if ident in text} == {*caller.sees} & {*dead}


def test_queues_and_metrics_name_no_other_tenant(world: World) -> None:
    for caller, path in ((world.caller("bob"), "/v1/queues"), (world.caller("none"), "/metrics")):
        assert world.ask(caller, "GET", path).status == 200
    assert world.alice.name in world.ask(world.caller("admin"), "GET", "/v1/queues").text
    assert world.alice.name in world.ask(world.caller("admin"), "GET", "/metrics").text


@pytest.mark.parametrize("given", [{}, {"tenant": ALICE}], ids=["of all", "of another"])
def test_usage_is_ones_own(world: World, given: dict[str, str]) -> None:
    asked = {"group_by": "tenant,key,model", **given}
    text = world.ask(world.caller("bob"), "GET", "/v1/usage", params=asked).text
    assert BOB in text
    text = world.ask(world.caller("admin"), "GET", "/v1/usage", params=asked).text
    assert ALICE in text


@every([route for route in routes.GUARDED if route.method == "GET" and route.kind in {None, "key", "tenant"}])
def test_no_answer_shows_a_secret_or_its_digest(world: World, route: Route) -> None:
    ids = world.alice.ids(route.kind).values() if route.kind else [None]
    for ident in ids:
        assert world.ask(world.caller("admin"), "GET", route.url(ident)).status == 200


@every([route for route in routes.OF_TENANTS if route.method == "GET"])
def test_an_administrator_sees_every_object(world: World, route: Route) -> None:
    assert route.kind is not None
    for state, ident in world.alice.ids(route.kind).items():
        got = world.ask(world.caller("admin"), "GET", route.url(ident))
        assert got.status not in {*REFUSED, 404}, (state, got)


METHODS = ["GET", "PATCH", "POST", "DELETE"]


# Last: it changes the objects. A part is deleted before its whole.
@every(sorted(routes.OF_TENANTS, key=lambda route: (METHODS.index(route.method), -len(route.path))))
def test_ones_own_objects_answer(world: World, route: Route) -> None:
    assert route.kind is not None
    own = {state: ident for state, ident in world.bob.ids(route.kind).items() if state != "chunk"}
    for state, ident in own.items():
        got = world.ask(world.caller("bob"), route.method, route.url(ident), **world.body(route))
        assert got.status not in {*REFUSED, 404}, (state, got)
