"""Whatever a client may name is reached with its owner: in the functions of Redis, and in every use by the api."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from broker.batches import BatchStore
from broker.conversations import ConversationStore
from broker.db.calls.base import Call
from broker.db.library import functions
from broker.events.hub import EventHub
from broker.files import FileStore
from broker.jobs import JobStore
from broker.tasks import TaskStore
from broker.webhooks import Webhooks

ROOT = Path(__file__).parents[2]

NAMES = {"id", "ids", "batch", "job", "after", "retry_of", "input_file_id"}
"""Fields of a call by which it names objects."""

FENCES = {"worker", "token", "attempt", "coordinator"}
"""Fields by which a process of ours shows that the object is its own to change."""

OURS = {
    "adopt": "the take-over of an earlier version's data",
    "batch_hold": "a coordinator or a worker says why a batch stands still",
    "conversation_create": "its id is new",
    "file_create": "its id is new",
    "index_tenants": "it builds the indexes by tenant",
    "purge": "a whole lane, for the scope admin",
    "key_create": "its id is new, and it is for the scope admin",
    "key_find": "judges a key; no client names it",
    "key_revoke": "any key, for the scope admin",
    "key_rotate": "any key, for the scope admin",
    "keys_page": "any tenant's, for the scope admin",
    "keys_used": "an api process says which keys it let in",
    "look": "counts about a job that was read or accepted just before",
    "webhook_create": "its id is new",
}
"""Calls that need neither: why."""

STORES: dict[str, Any] = {
    "store": JobStore,
    "files": FileStore,
    "batches": BatchStore,
    "conversations": ConversationStore,
    "tasks": TaskStore,
    "hub": EventHub,
    "webhooks": Webhooks,
}
"""What the api's services are called, and what they are."""

OBJECTS = {"job_id", "file_id", "batch_id", "conversation_id", "webhook_id"}

KNOWN = {
    "announce": "its id is new",
    "create": OURS["webhook_create"],
    "chunks": "of a batch that was read for its owner",
    "has_parts": "of a batch that was read for its owner",
    "answer": "of a task that was asked for its owner",
    "topic": "a name alone",
    "inbox": "gets what the functions send; they send it to those who watch for an owner",
    "ending": "of a job that this process accepted, or watches for its owner",
    "look": OURS["look"],
}
"""Methods that the api calls with an object's id alone: why."""

OTHER_STORES = {"api/access/known_keys.py", "api/access/known_tenants.py"}
"""Modules that call something else so."""

WITHOUT = {("api/abandon.py", "cancel"): "the job that a caller has left; the api had accepted it"}
"""Calls by the api itself, for no client: why."""


class Use(NamedTuple):
    """A call of a store's method in the api."""

    module: str
    method: str
    function: Any
    keywords: frozenset[str]


def calls() -> list[type[Call[Any]]]:
    return [call for call in functions() if NAMES & {*call.__struct_fields__}]


def uses() -> Iterator[Use]:
    for path in sorted((ROOT / "api").rglob("*.py")):
        module = str(path.relative_to(ROOT))
        if module in OTHER_STORES:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            of = node.func.value
            name = of.attr if isinstance(of, ast.Attribute) else of.id if isinstance(of, ast.Name) else ""
            store = STORES.get(name.removeprefix("_"))
            function = getattr(store, node.func.attr, None)
            if function is not None:
                given = frozenset(keyword.arg or "**" for keyword in node.keywords)
                yield Use(module, node.func.attr, function, given)


def body_of(function: str) -> str:
    """Return the Lua source of a function."""
    root = resources.files("broker") / "lua"
    text = "\n".join(file.read_text() for file in root.iterdir() if file.name.endswith(".lua"))
    (found,) = re.findall(rf"^define\('{function}', (.*?)^end\)$", text, flags=re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.mark.parametrize("call", calls(), ids=lambda call: call.function())
def test_a_call_that_names_an_object_says_for_whom(call: type[Call[Any]]) -> None:
    fields = {*call.__struct_fields__}
    if "owner" not in fields:
        assert fields & FENCES or call.function() in OURS, (
            "give it a field owner, and check it in the function"
        )
        return
    assert re.search(r"\bowns(_job)?\(a\b|\ba\.owner\b|\b(status|webhook)_of\(a\)", body_of(call.function()))


def test_the_table_of_exceptions_has_no_row_too_many() -> None:
    bare = {call.function() for call in calls() if not {*call.__struct_fields__} & (FENCES | {"owner"})}
    assert set(OURS) == bare


def test_the_api_reads_and_changes_objects_for_their_owner_alone() -> None:
    missing, needed = [], set()
    for use in uses():
        parameters = {*inspect.signature(use.function).parameters}
        place = use.module, use.method
        if "owner" in parameters:
            if place in WITHOUT:
                needed.add(place)
            elif "owner" not in use.keywords:
                missing.append(place)
        elif parameters & OBJECTS and use.method not in KNOWN:
            missing.append(place)
    assert not missing, "pass owner=owner_of(scope)"
    assert needed == {*WITHOUT}


def test_the_api_was_read() -> None:
    """The test above sees the calls: were they spelled otherwise, it would see none."""
    found = {use.method for use in uses()}
    assert {"cancel", "watch", "move", "get", "get_with_result", "respec", "list_jobs", "delete"} <= found
    assert {"page", "pause", "ask", "ended", "follow", *KNOWN} <= found
