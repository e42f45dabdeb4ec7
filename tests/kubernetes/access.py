"""Who may do what: RBAC rules by bearer token, and what each token asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Act(NamedTuple):
    """A verb on a resource of a group; the core group is ``""``."""

    verb: str
    group: str
    resource: str


def allowed(rules: Iterable[Mapping[str, Any]]) -> frozenset[Act]:
    """Return the acts that the rules of a Role allow."""
    return frozenset(
        Act(verb, group, resource)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    )


class Access:
    """Checks callers that have a token of their own; others may do everything."""

    def __init__(self) -> None:
        self._may: dict[str, frozenset[Act]] = {}
        self.asked: dict[str, set[Act]] = {}

    def restrict(self, token: str, rules: Iterable[Mapping[str, Any]]) -> None:
        """Let a token do what these rules say, and nothing else."""
        self._may[token] = allowed(rules)
        self.asked[token] = set()

    def may(self, token: str | None, act: Act) -> bool:
        """Whether a caller may do this. It is noted."""
        if token is None or token not in self._may:
            return True
        self.asked[token].add(act)
        return act in self._may[token]
