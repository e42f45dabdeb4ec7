"""The caller of a request, as the routes see it. :mod:`api.access.authenticate` puts it there."""

from __future__ import annotations

from starlette.types import Scope as AsgiScope

from jobs.access import KEYLESS, Actor, Identity

_IDENTITY = "penstock.identity"


def put_identity(scope: AsgiScope, identity: Identity) -> None:
    """Note who calls."""
    scope[_IDENTITY] = identity


def identity_of(scope: AsgiScope) -> Identity:
    """Return who calls; where no keys are required, everybody."""
    identity: Identity = scope.get(_IDENTITY, KEYLESS)
    return identity


def tenant_of(scope: AsgiScope) -> str:
    """Return the tenant of the caller."""
    return identity_of(scope).tenant


def owner_of(scope: AsgiScope) -> str | None:
    """Return the tenant whose objects the caller may reach; None: every tenant's."""
    return identity_of(scope).owner


def actor_of(scope: AsgiScope) -> Actor:
    """Return the caller as the audit stream names them."""
    identity = identity_of(scope)
    client = scope.get("client")
    return Actor(identity.key, identity.tenant, client[0] if client else "")
