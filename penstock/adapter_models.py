"""The wire models of LoRA adapters. Times are Unix seconds."""

from __future__ import annotations

from penstock.models import Wire


class AdapterReport(Wire):
    """What a live worker says of an adapter: ``loaded``, ``stored`` (a checked copy) or ``failed``, with the reason."""

    worker: str
    state: str
    reason: str | None = None


class Adapter(Wire):
    """A LoRA adapter, as an administrator sees it.

    Attributes:
        id: ``<pool>/<name>``.
        name: the name that requests use as their ``model``.
        source: where it came from.
        digest: SHA-256 of its files: its version.
        bytes: of its files.
        base: the model that its configuration names.
        tenant: the only tenant that may use it; None: all.
        pinned: workers keep it loaded.
        state: the best of its workers' states; ``pending``: none has said anything; ``failed``: no live worker can load it.
        workers: what each live worker says.
    """

    id: str
    name: str
    pool: str
    source: str = ""
    digest: str = ""
    bytes: int = 0
    rank: int = 0
    base: str | None = None
    tenant: str | None = None
    pinned: bool = False
    created_at: float | None = None
    state: str = "pending"
    workers: tuple[AdapterReport, ...] = ()
