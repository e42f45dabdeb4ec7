"""The Lua scripts: read from their folders, each completed with the keys, tables and functions that it uses."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

import jobs.batches
import jobs.states
from broker.db.keys import Keys
from jobs.lanes import Lane


@dataclass(frozen=True, slots=True)
class Script:
    """One atomic transition.

    Attributes:
        source: complete, as Redis gets it.
        sha: the SHA-1 by which Redis knows it.
        reads_only: it writes nothing, so a master that was demoted may run it.
    """

    source: str
    sha: str
    reads_only: bool


def load_scripts(keys: Keys) -> dict[str, Script]:
    """Read every script of ``broker/lua``: ``job/claim`` is in ``job/claim.lua``.

    A script is completed with the key names, the tables and the shared functions that it uses, and no others: the server
    makes these anew at every call, and making all of them took longer than most scripts.

    Each begins with ``#!lua`` and its flags. Redis then either refuses it before it starts or runs it to its end. Without
    the flag ``allow-oom`` it is refused when memory is out. Scripts that add data (new jobs, chunks and results) lack the
    flag; those that keep leases or claim, cancel, release and reap jobs have it.
    """
    files = dict(_files())
    shared = _tables()
    for name, text in files.items():
        if _is_shared(name):
            shared |= _definitions(text)
    scripts = {}
    for name, text in files.items():
        if not _is_shared(name):
            flags, _, body = text.partition("\n")
            used = [shared[one] for one in _used(shared, body)]
            source = "\n".join([flags, keys.lua("".join(used) + body), *used, body])
            sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
            scripts[name] = Script(source, sha, "no-writes" in flags)
    return scripts


def _tables() -> dict[str, str]:
    """Return the facts of ``jobs`` that scripts go by, as Lua definitions by name.

    ``LANES`` is the order of the lanes. ``on_claim`` is a table from a job's state to the state that the event ``claim``
    leads to, and so for every event; a pair that is missing is illegal. ``on_batch_cancel`` is the same for a batch.
    """
    leads: dict[str, list[str]] = {}
    for (state, event), target in jobs.states.TRANSITIONS.items():
        leads.setdefault(f"on_{event}", []).append(f"{state} = '{target}'")
    for (status, happening), outcome in jobs.batches.TRANSITIONS.items():
        leads.setdefault(f"on_batch_{happening}", []).append(f"{status} = '{outcome}'")
    lanes = ", ".join(f"'{lane}'" for lane in Lane)
    tables = {name: f"local {name} = {{{', '.join(rows)}}}" for name, rows in leads.items()}
    return {"LANES": f"local LANES = {{{lanes}}}"} | tables


def _files() -> Iterator[tuple[str, str]]:
    """Yield every Lua file: its path without ``.lua``, and its text."""
    root = resources.files("broker") / "lua"
    for room in (root, *(one for one in root.iterdir() if one.is_dir())):
        prefix = "" if room is root else f"{room.name}/"
        for file in room.iterdir():
            if file.name.endswith(".lua"):
                yield prefix + file.name.removesuffix(".lua"), file.read_text()


def _is_shared(name: str) -> bool:
    return name.rpartition("/")[2].startswith("_")


def _definitions(source: str) -> dict[str, str]:
    """Cut shared Lua source into its definitions, by name: each begins with ``local`` at the start of a line."""
    found = {}
    for piece in re.split(r"^(?=local )", source, flags=re.MULTILINE)[1:]:
        named = re.match(r"local (?:function )?(\w+)", piece)
        if named is not None:
            found[named[1]] = re.sub(r"^--.*\n", "", piece, flags=re.MULTILINE)
    return found


def _used(shared: Mapping[str, str], body: str) -> list[str]:
    """Return the names of the definitions that a script uses, directly or through others; each after those it uses."""
    ordered: list[str] = []
    seen: set[str] = set()

    def visit(text: str) -> None:
        for name in re.findall(r"\w+", text):
            if name in shared and name not in seen:
                seen.add(name)
                visit(shared[name])
                ordered.append(name)

    visit(body)
    return ordered
