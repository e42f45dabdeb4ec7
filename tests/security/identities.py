"""Callers of the api: tenants, and the keys with which they come."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.access import TENANT_SCOPES, Scope

ALICE, BOB, OPERATORS = "orchid-team", "zephyr-team", "operator-team"
"""The tenants. No other text of a test holds one of these names."""


@dataclass(frozen=True)
class Wanted:
    """A key to make.

    Attributes:
        tenant: whose key it is.
        scopes: what it opens.
        fate: what has become of it.
    """

    tenant: str
    scopes: frozenset[Scope] = TENANT_SCOPES
    fate: str = "good"

    @property
    def sees(self) -> tuple[str, ...]:
        """The tenants of whom its holder may hear."""
        return (ALICE, BOB, OPERATORS) if Scope.ADMIN in self.scopes else (self.tenant,)


WANTED = {
    "alice": Wanted(ALICE),
    "bob": Wanted(BOB),
    "bob, metrics": Wanted(BOB, TENANT_SCOPES | {Scope.METRICS}),
    "admin": Wanted(OPERATORS, frozenset({Scope.ADMIN})),
    **{scope.value: Wanted(BOB, frozenset({scope})) for scope in Scope if scope is not Scope.ADMIN},
    **{fate: Wanted(BOB, fate=fate) for fate in ("expired", "revoked", "rotated out")},
}
"""The keys of the tests, by the names of their holders."""


@dataclass
class Tenant:
    """A tenant with objects of its own.

    Attributes:
        name: the tenant's.
        key: with every scope of a tenant.
        prompt: stands in each of its prompts.
        answer: stands in each of its results.
        note: stands in its metadata and the names of its files.
        objects: its objects: kind, state, id.
    """

    name: str
    key: str
    prompt: str
    answer: str
    note: str
    objects: dict[tuple[str, str], str] = field(default_factory=dict)

    def ids(self, kind: str) -> dict[str, str]:
        """Return its objects of a kind: state to id."""
        return {state: ident for (what, state), ident in self.objects.items() if what == kind}

    @property
    def marks(self) -> tuple[str, ...]:
        """What no answer to another tenant may hold."""
        return (self.name, self.prompt, self.answer, self.note, *self.objects.values())


def bearer(key: str | None) -> dict[str, str]:
    """Return the header that shows a key."""
    return {} if key is None else {"authorization": f"Bearer {key}"}
