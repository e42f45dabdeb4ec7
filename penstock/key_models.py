"""The wire models of API keys. Times are Unix seconds."""

from __future__ import annotations

from penstock.models import Wire


class ApiKey(Wire):
    """An API key, as an administrator sees it.

    Attributes:
        id: it is no secret.
        key: the whole key; None in every answer but those of ``create`` and ``rotate``.
        tenant: whose objects it makes and sees.
        scopes: what it may do.
        models: the models that it may use; None: every one of its tenant.
        state: ``active``, ``expired`` or ``revoked``.
        expires_at: None: it does not expire.
        last_used_at: to five minutes; None: never.
        overlap_until: until then the secret before the last rotation is right; None: it is not.
    """

    id: str
    key: str | None = None
    tenant: str
    scopes: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None
    name: str = ""
    state: str = "active"
    created_at: float | None = None
    expires_at: float | None = None
    last_used_at: float | None = None
    overlap_until: float | None = None
