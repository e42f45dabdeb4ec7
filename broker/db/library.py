"""The Functions library (Redis 7.0): all of ``broker/lua``, joined, with the names and tables that it uses.

The library and its functions bear a hash of its source in their names. So two versions live side by side on one server
while processes are replaced one by one, and each calls its own. One library serves every namespace.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

import broker.db.calls
import jobs.batches
import jobs.states
import jobs.webhooks
from broker.db.calls.base import Call
from broker.db.keys import lua_keys
from jobs.endpoints import CHUNK_ENDPOINT, ENDPOINTS, RESPONSES
from jobs.lanes import Lane

R = TypeVar("R")

PREFIX: Final = "penstock_"
"""With this, the names of our libraries begin."""

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Library:
    """One version of the library.

    Attributes:
        name: ``penstock_<hash>``.
        source: as Redis gets it.
    """

    name: str
    source: str

    def command(
        self, namespace: str, call: Call[Any], blobs: tuple[bytes, ...] = ()
    ) -> tuple[str | bytes | int, ...]:
        """Return a call as a command of Redis."""
        return ("FCALL", self._function(call), 0, namespace, _encode(call), *blobs)

    def command_of_all(
        self, namespace: str, calls: Sequence[tuple[Call[Any], tuple[bytes, ...]]]
    ) -> tuple[str | bytes | int, ...]:
        """Return calls of one function as one command, whose reply is the list of their replies."""
        heads = [(call, len(blobs)) for call, blobs in calls]
        all_blobs = [blob for _, blobs in calls for blob in blobs]
        return ("FCALL", self._function(calls[0][0]), 0, namespace, _encode(heads), *all_blobs)

    def _function(self, call: Call[Any]) -> str:
        return f"{call.function()}_{self.name.removeprefix(PREFIX)}"


def answer_to(call: type[Call[R]], reply: Any) -> tuple[R, list[bytes]]:
    """Read Redis's reply: the answer, and the blobs that follow it."""
    first, *blobs = reply if isinstance(reply, list) else (reply,)
    return _decoder(call).decode(first), blobs


@cache
def _decoder(call: type[Call[Any]]) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(call.answer_type())


@cache
def library() -> Library:
    """Return this version's library."""
    body = "\n".join([*_head(), *(text for _, text in _files())])
    name = PREFIX + hashlib.sha256(body.encode()).hexdigest()[:12]
    head = f"#!lua name={name}\nlocal LIBRARY, SUFFIX = '{name}', '_{name.removeprefix(PREFIX)}'\n"
    return Library(name, head + body)


def functions() -> Iterator[type[Call[Any]]]:
    """Yield the class of every function."""
    for module in pkgutil.iter_modules(broker.db.calls.__path__, "broker.db.calls."):
        for one in vars(importlib.import_module(module.name)).values():
            if (
                isinstance(one, type)
                and issubclass(one, Call)
                and one.__module__ == module.name
                and one is not Call
            ):
                yield one


def _head() -> Iterator[str]:
    """Yield what the Lua files use: key names, lanes, the endpoint of chunks, fields of a pool, transitions, signatures.

    ``ON.claim`` is a table from a job's state to the state that the event ``claim`` leads to, and so for every event; a pair
    that is missing is illegal. ``ON.batch_cancel`` is the same for a batch.
    """
    yield lua_keys()
    lanes = ", ".join(f"'{lane}'" for lane in Lane)
    yield f"local LANES = {{{lanes}}}"
    yield f"local CHUNK_ENDPOINT = '{CHUNK_ENDPOINT}'"
    ends = ", ".join(f"{state} = '{status}'" for state, status in jobs.webhooks.RESPONSE_ENDS.items())
    response = f"endpoint = '{RESPONSES}', id = '{ENDPOINTS[RESPONSES].response_id.format('%s')}'"
    yield f"local RESPONSE = {{{response}, {ends}}}"
    prefixes = f"'{jobs.webhooks.OF_ONE_PREFIX}', '{jobs.webhooks.TENANT_PREFIX}'"
    yield f"local OF_ONE, OF_TENANT, TO_NOBODY = {prefixes}, '{jobs.webhooks.TO_NOBODY}'"
    pool = ", ".join(f"'depth:{lane}', 'v:{lane}'" for lane in Lane)
    yield f"local POOL = {{'paused', 'active', 'bulk', {pool}}}"
    leads: dict[str, list[str]] = {}
    for (state, event), target in jobs.states.TRANSITIONS.items():
        leads.setdefault(event.value, []).append(f"{state} = '{target}'")
    for (status, happening), outcome in jobs.batches.TRANSITIONS.items():
        leads.setdefault(f"batch_{happening}", []).append(f"{status} = '{outcome}'")
    tables = (f"{name} = {{{', '.join(rows)}}}" for name, rows in leads.items())
    yield f"local ON = {{{', '.join(tables)}}}"
    yield f"local FLAGS = {{{', '.join(_flags())}}}"
    yield "\n".join(["local SIGNATURES = {", *_signatures(), "}"])


def _flags() -> Iterator[str]:
    for call in functions():
        flags = ", ".join(f"'{flag}'" for flag in call.flags)
        yield f"{call.function()} = {{{flags}}}"


def _signatures() -> Iterator[str]:
    """Yield the types of each function's arguments: those that it needs, and those that may be left out."""
    for call in functions():
        hints = get_type_hints(call)
        kinds = {name: _kind(hints[name]) for name in call.__struct_fields__}
        needs = ", ".join(f"{name} = '{kind}'" for name, (kind, optional) in kinds.items() if not optional)
        takes = ", ".join(f"{name} = '{kind}'" for name, (kind, optional) in kinds.items() if optional)
        yield f"  {call.function()} = {{needs = {{{needs}}}, takes = {{{takes}}}}},"


def _kind(hint: Any) -> tuple[str, bool]:
    """Return Lua's name for a type, and whether None is one of its values."""
    if get_origin(hint) in {UnionType, Union}:
        (kind,) = {_kind(one) for one in get_args(hint) if one is not type(None)}
        return kind[0], True
    names: Mapping[Any, str] = {str: "string", int: "number", float: "number", bool: "boolean"}
    return names.get(hint, "table"), False


def _files() -> Iterator[tuple[str, str]]:
    """Yield the Lua files, by name; those that others build on come first, as their names begin with a number.

    Each other one is a block of its own: Lua allows 200 local names in one.
    """
    root = resources.files("broker") / "lua"
    for file in sorted(root.iterdir(), key=lambda one: one.name):
        if file.name.endswith(".lua"):
            text = file.read_text()
            yield file.name, text if file.name[0].isdigit() else f"do\n{text}end\n"
