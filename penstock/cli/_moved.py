"""Commands that have another name now: the old one works for a release, with a hint on stderr."""

from __future__ import annotations

from penstock.cli._exits import note
from penstock.cli._parse import PRIORITIES

MOVED = {
    "wait": "jobs wait",
    "stream": "jobs stream",
    "get": "jobs get",
    "list": "jobs list",
    "cancel": "jobs cancel",
    "retry": "jobs retry",
    "priority": "jobs move --priority",
    "dead list": "jobs list --dead",
    "dead retry": "jobs retry --dead",
    "dead": "jobs",
    "queue ls": "queue list",
    "queue top": "jobs move --top",
    "workers": "worker list",
    "health": "status --health",
    "aliases list": "models list --aliases",
    "aliases set": "models alias",
    "aliases rm": "models unalias",
    "aliases": "models",
    "adapters rm": "adapters remove",
}
"""Old words and new ones. The first that match count, so longer ones come first."""

GROUPS_NOW = {"worker": "worker run", "models": "models list"}
"""Commands that are groups now. The old one had no further word, or an option."""


def renewed(words: list[str]) -> list[str]:
    """Return the words of a command line, from the command on, with the new name for an old one; say it if so."""
    for old, new in MOVED.items():
        count = len(old.split())
        if words[:count] == old.split():
            rest = words[count:]
            if old == "priority" and {"-h", "--help"} & set(rest):
                return _said(old, "jobs move", ["--help"])
            return _said(old, new, _lane_first(rest) if old == "priority" else rest)
    first, rest = words[0], words[1:]
    if first in GROUPS_NOW and (not rest or (rest[0].startswith("-") and rest[0] not in {"-h", "--help"})):
        return _said(first, GROUPS_NOW[first], rest)
    return words


def _said(old: str, new: str, rest: list[str]) -> list[str]:
    note(f"penstock {old} is now penstock {new}")
    return [*new.split(), *rest]


def _lane_first(words: list[str]) -> list[str]:
    """Put the lane, which came behind the job, where ``--priority`` takes it."""
    lanes = [place for place, word in enumerate(words) if word in PRIORITIES.choices]
    others = [place for place, word in enumerate(words) if not word.startswith("-")]
    if not (lanes or others):
        return words
    place = (lanes or others)[-1]
    return [words[place], *words[:place], *words[place + 1 :]]
