"""How the library of functions is put together: tables of transitions, key names, and both sides' signatures."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

import broker
from broker.db.calls.attempts import Claim
from broker.db.calls.base import KEEPS, READS, WRITES
from broker.db.calls.jobs import Accept
from broker.db.keys import _TEMPLATES
from broker.db.library import PREFIX, answer_to, functions, library
from jobs import batches, states
from jobs.states import JobEvent, JobState

FILES = sorted((Path(broker.__file__).parent / "lua").glob("*.lua"))
LUA = "\n".join(re.sub(r"--.*", "", file.read_text()) for file in FILES)


@pytest.fixture(scope="module")
def tables() -> dict[str, dict[str, str]]:
    """Read the tables of events from the library."""
    (line,) = re.findall(r"^local ON = \{(.*)\}$", library().source, flags=re.MULTILINE)
    return {
        name: dict(re.findall(r"(\w+) = '(\w+)'", rows))
        for name, rows in re.findall(r"(\w+) = \{(.*?)\}", line)
    }


@pytest.mark.parametrize(("state", "event"), list(product(JobState, JobEvent)))
def test_every_pair_of_state_and_event_is_in_the_library_as_in_the_table(
    tables: dict[str, dict[str, str]], state: JobState, event: JobEvent
) -> None:
    assert tables[event].get(state) == states.TRANSITIONS.get((state, event))


def test_batches_are_cancelled_from_the_statuses_of_the_table(tables: dict[str, dict[str, str]]) -> None:
    event = batches.BatchEvent.CANCEL
    legal = {status: to for (status, e), to in batches.TRANSITIONS.items() if e is event}
    assert tables["batch_cancel"] == legal


def test_every_transition_that_the_functions_make_is_in_the_table(tables: dict[str, dict[str, str]]) -> None:
    """A pair that is missing would be nil there, and would write no state."""
    used = {*re.findall(r"ON\.(\w+)\.(\w+)", LUA)}
    assert len(used) >= 8
    assert {event for event, _ in used} <= tables.keys()
    assert [pair for pair in used if pair[1] not in tables[pair[0]]] == []


def test_every_call_has_a_function_and_every_function_a_call() -> None:
    defined = re.findall(r"^define\('(\w+)'", LUA, flags=re.MULTILINE)
    assert sorted(defined) == sorted(call.function() for call in functions())
    assert len(defined) == len(set(defined))


def test_every_argument_that_a_function_reads_is_a_field_of_its_call() -> None:
    fields = {call.function(): set(call.__struct_fields__) for call in functions()}
    bodies = re.split(r"^define\('(\w+)'", LUA, flags=re.MULTILINE)[1:]
    for name, body in zip(bodies[::2], bodies[1::2], strict=True):
        read = set(re.findall(r"\ba\.(\w+)", body.split("\nend)")[0]))
        assert read <= fields[name], f"{name} reads what is no field: {read - fields[name]}"


def test_every_key_that_is_named_is_in_the_schema_and_every_one_of_the_schema_is_used() -> None:
    named = set(re.findall(r"\bK\.(\w+)\(", LUA))
    assert named <= _TEMPLATES.keys()
    assert len(named) > 40


def test_functions_that_write_nothing_say_so_and_no_other_does() -> None:
    """A replica may run them. One that adds data must be refused when memory is out, so it has no flag."""
    flags = {call.function(): call.flags for call in functions()}
    assert flags["look"] == READS
    assert flags["accept"] == WRITES
    assert flags["finish"] == WRITES
    assert flags["claim"] == KEEPS
    reads = {name for name, flag in flags.items() if flag == READS}
    writing = r"redis\.p?call\('(?:SET|HSET|DEL|Z?ADD|SADD|[SZ]REM|HDEL|HINCRBY|LPUSH|PUBLISH|XADD)'"
    bodies = re.split(r"^define\('(\w+)'", LUA, flags=re.MULTILINE)[1:]
    for name, body in zip(bodies[::2], bodies[1::2], strict=True):
        if name in reads:
            assert not re.search(writing, body.split("\nend)")[0]), name


def test_the_name_is_of_the_source() -> None:
    one = library()
    assert re.fullmatch(rf"{PREFIX}[0-9a-f]{{12}}", one.name)
    assert one.source.startswith(f"#!lua name={one.name}\n")
    assert library() is one


def test_no_block_has_more_locals_than_lua_allows() -> None:
    """200 in one, with those of the blocks around it."""
    shared, *blocks = re.split(r"^do$", library().source, flags=re.MULTILINE)
    names = [
        re.findall(r"^local (?:function )?([\w, ]+)", one, flags=re.MULTILINE) for one in (shared, *blocks)
    ]
    counts = [sum(len(line.split(",")) for line in lines) for lines in names]
    assert len(blocks) >= 12
    assert counts[0] + max(counts[1:]) < 180


def test_a_name_is_defined_before_it_is_used() -> None:
    """A local that comes later is a global, nil, at the place of the call."""
    first: dict[str, int] = {}
    for at in re.finditer(r"^local (?:function )?(\w+)", library().source, flags=re.MULTILINE):
        first.setdefault(at[1], at.start())
    code = re.sub(r"--[^\n]*", lambda comment: " " * len(comment[0]), library().source)
    for name, start in first.items():
        early = re.search(rf"(?<![.\w'])\b{name}\(", code[:start])
        assert early is None, f"{name} is called before its definition"


def test_a_call_is_a_command_with_its_arguments_by_name() -> None:
    call = Claim("w", "p", 2, 1, 1, 5, 3, 60_000, "t")
    command = library().command("ns", call, (b"blob",))
    assert command[:1] + command[2:4] == ("FCALL", 0, "ns")
    assert command[1] == f"claim_{library().name.removeprefix(PREFIX)}"
    assert command[5] == b"blob"
    assert b"again" not in command[4]  # type: ignore[operator]


def test_an_answer_is_read_by_its_type() -> None:
    accepted, blobs = answer_to(Accept, b"\x83\xa4kind\xa8accepted\xa2id\xa1x\xa2at\x07")
    assert (accepted.kind, accepted.id, accepted.at, blobs) == ("accepted", "x", 7, [])
    claimed, blobs = answer_to(Claim, [b"\x81\xa4jobs\x90", b"facts", b"body"])
    assert (claimed.jobs, blobs) == ((), [b"facts", b"body"])
