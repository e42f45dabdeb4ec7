"""Which models there are and which have a live worker, as last heard from Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.store import JobStore

MIN_GAP_S = 0.2
"""Least time between looks because of a miss: requests for an unknown model shall be no load on Redis."""


@dataclass(frozen=True, slots=True)
class Model:
    """A served model, as its worker registered it.

    Attributes:
        name: what clients call it.
        pool: whose workers serve it.
        card: its entry in ``GET /v1/models``.
        endpoints: what it can do; empty where the worker did not say.
        max_model_len: context length in tokens; None where unknown.
        max_token_bytes: UTF-8 bytes of the longest token; None where unknown.
        max_output_tokens: most completion tokens that a request may ask for; None where unknown.
        prompt_overhead: tokens that stand around a prompt at most; None where its workers cannot count tokens.
    """

    name: str
    pool: str = "default"
    card: Mapping[str, Any] = field(default_factory=dict)
    endpoints: tuple[str, ...] = ()
    max_model_len: int | None = None
    max_token_bytes: int | None = None
    max_output_tokens: int | None = None
    prompt_overhead: int | None = None


class Catalogue:
    """A cached view of models and workers; whoever starts the api refreshes it."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._models: dict[str, Model] = {}
        self._live: dict[str, tuple[str, ...]] = {}
        self._pools: tuple[str, ...] = ()
        self._read_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None

    @property
    def pools(self) -> tuple[str, ...]:
        """Every known pool."""
        return self._pools

    @property
    def has_worker(self) -> bool:
        """Whether any worker was alive at the last look."""
        return bool(self._live)

    def live(self, model: Model) -> bool:
        """Whether a worker that serves the model was alive at the last look."""
        return model.name in self._live

    def workers(self, model: Model) -> tuple[str, ...]:
        """Return the incarnations of the workers that served the model at the last look."""
        return self._live.get(model.name, ())

    def listed(self) -> list[Model]:
        """Return the models of live workers; where none lives, every known one."""
        live = [model for model in self._models.values() if model.name in self._live]
        return live or list(self._models.values())

    def known(self, name: str) -> Model | None:
        """Return a model as of the last look."""
        return self._models.get(name)

    async def find(self, name: str, *, live: bool = False) -> Model | None:
        """Return a model, looking again where it is not known (or, with ``live``, has no live worker).

        Raises:
            StoreUnavailableError: it had to look, and Redis is away.
        """
        model = self._models.get(name)
        if model is None or (live and name not in self._live):
            await self._look(pause_s=MIN_GAP_S - self._age_s())
            model = self._models.get(name)
        return model

    async def refresh(self, max_age_s: float = 0.0) -> None:
        """Look again, unless the last look is younger than ``max_age_s``.

        Raises:
            StoreUnavailableError: Redis is away; what was known stays.
        """
        if self._age_s() >= max_age_s:
            await self._look()

    def _age_s(self) -> float:
        return time.monotonic() - self._read_at

    async def _look(self, pause_s: float = 0.0) -> None:
        """Look; concurrent calls share one look, the first of them says after which pause."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._read(pause_s), name="catalogue")
        await asyncio.shield(self._looking)

    async def aclose(self) -> None:
        """End the look that is under way; a moment's patience, as a cut connection is not closed cleanly."""
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=1.0)
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _read(self, pause_s: float) -> None:
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        models, workers = await asyncio.gather(self._store.models(), self._store.workers())
        self._models = {name: _model(name, facts) for name, facts in models.items()}
        live: dict[str, tuple[str, ...]] = {}
        for worker in workers:
            for name in worker.get("models", ()):
                live[name] = (*live.get(name, ()), worker["incarnation"])
        self._live = live
        pools = {model.pool for model in self._models.values()} | {w.get("pool", "default") for w in workers}
        self._pools = tuple(sorted(pools)) or ("default",)
        self._read_at = time.monotonic()


def _model(name: str, facts: Mapping[str, Any]) -> Model:
    return Model(
        name=name,
        pool=facts.get("pool", "default"),
        card=facts.get("card") or {},
        endpoints=tuple(facts.get("endpoints") or ()),
        max_model_len=facts.get("max_model_len"),
        max_token_bytes=facts.get("max_token_bytes"),
        max_output_tokens=facts.get("max_output_tokens"),
        prompt_overhead=facts.get("prompt_overhead"),
    )
