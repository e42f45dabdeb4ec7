"""How the Lua scripts are put together: tables of transitions from ``jobs``, keys, and shared functions in their order."""

from __future__ import annotations

import re
from itertools import product

import pytest

from broker.db.keys import Keys
from broker.db.scripts import Script, load_scripts
from jobs import batches, states
from jobs.states import JobEvent, JobState


@pytest.fixture(scope="module")
def scripts() -> dict[str, Script]:
    return load_scripts(Keys())


def tables(source: str) -> dict[str, dict[str, str]]:
    """Read the tables of events from a script."""
    found = re.findall(r"^local (on_\w+) = \{(.*)\}$", source, flags=re.MULTILINE)
    return {name: dict(re.findall(r"(\w+) = '(\w+)'", rows)) for name, rows in found}


def test_scripts_are_named_after_their_files(scripts: dict[str, Script]) -> None:
    assert {
        "job/claim",
        "queue/pause",
        "worker/heartbeat",
        "batch/chunk_commit",
        "file/create",
    } <= scripts.keys()
    assert not [name for name in scripts if "/_" in name or name.startswith("_")]
    assert scripts["file/page"].reads_only
    assert not scripts["job/claim"].reads_only


@pytest.mark.parametrize(("state", "event"), list(product(JobState, JobEvent)))
def test_every_pair_of_state_and_event_is_in_the_scripts_as_in_the_table(
    scripts: dict[str, Script], state: JobState, event: JobEvent
) -> None:
    rendered = [
        found[name] for s in scripts.values() if (name := f"on_{event}") in (found := tables(s.source))
    ]
    assert rendered
    assert {rows.get(state) for rows in rendered} == {states.TRANSITIONS.get((state, event))}


def test_batches_are_cancelled_from_the_statuses_of_the_table(scripts: dict[str, Script]) -> None:
    event = batches.BatchEvent.CANCEL
    legal = {status: to for (status, e), to in batches.TRANSITIONS.items() if e is event}
    assert tables(scripts["batch/cancel"].source) == {"on_batch_cancel": legal}


def test_a_script_defines_each_shared_name_once_and_before_its_use(scripts: dict[str, Script]) -> None:
    defined_by = r"^local (?:function )?(\w+)"
    shared = {name for s in scripts.values() for name in re.findall(defined_by, s.source, flags=re.MULTILINE)}
    for name, script in scripts.items():
        code = re.sub(r"--.*", "", script.source)
        pieces = re.split(r"^(?=local )", code, flags=re.MULTILINE)
        names = [re.findall(defined_by, piece)[0] for piece in pieces[1:]]
        known: set[str] = set()
        for own, piece in zip(names, pieces[1:], strict=True):
            called = set(re.findall(r"(?<![.\w])(\w+)\(", piece)) & shared
            assert called <= known | {own} | set(re.findall(r"local function (\w+)", piece)), f"{name}: {own}"
            known.add(own)
