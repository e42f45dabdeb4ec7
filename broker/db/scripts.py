"""The Lua scripts: read from their folders, each completed with the keys and the shared functions that it uses."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

from broker.db.keys import Keys


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

    A script is completed with the key names and the shared functions that it uses, and no others: the server makes the
    functions anew at every call, and making all of them took longer than most scripts.

    Each begins with ``#!lua`` and its flags. Redis then either refuses it before it starts or runs it to its end. Without
    the flag ``allow-oom`` it is refused when memory is out. Scripts that add data (new jobs, chunks and results) lack the
    flag; those that keep leases or claim, cancel, release and reap jobs have it.
    """
    files = dict(_files())
    shared: dict[str, str] = {}
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
