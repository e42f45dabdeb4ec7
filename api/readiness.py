"""Whether a job that is submitted now will run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.catalogue import Catalogue
from broker.db.errors import StoreFaultError, StoreUnavailableError

REDIS_PATIENCE_S = 2.0
MOST_AGE_S = 1.0

OK = "ok"
CHECKS = {"redis": OK, "schema": OK, "worker": OK, "events": OK, "tasks": OK}


@dataclass(frozen=True, slots=True)
class Report:
    """What a look found.

    Attributes:
        checks: the state of each part by name; ``ok``, or what is wrong.
        models: the names that requests may use now.
    """

    checks: dict[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """The names of the checks that failed."""
        return [name for name, state in self.checks.items() if state != OK]

    def without_worker(self) -> Report:
        """Return what it says of this process and of Redis alone."""
        return Report({name: state for name, state in self.checks.items() if name != "worker"}, self.models)

    @property
    def status(self) -> int:
        """The HTTP status of a health check."""
        return 503 if self.missing else 200


class Readiness:
    """Looks at Redis and the workers, at most once a second, however many clients ask: nobody needs a key to ask.

    Args:
        catalogue: the view of the workers that requests are checked against.
        most_age_s: how old an answer may be.

    Attributes:
        stopping: whether the process was asked to end.
    """

    def __init__(self, catalogue: Catalogue, most_age_s: float) -> None:
        self._catalogue = catalogue
        self._most_age_s = min(MOST_AGE_S, most_age_s)
        self._lock = asyncio.Lock()
        self._report = Report()
        self._looked_at = float("-inf")
        self._looks: dict[str, Callable[[], str]] = {}
        self.stopping = False

    def add(self, name: str, look: Callable[[], str]) -> None:
        """Add a check of this process. ``look``: returns its state, :data:`OK` or what is wrong."""
        self._looks[name] = look

    async def report(self) -> Report:
        """Return the last look, or take another. A process that is stopping is not ready, whatever it sees."""
        async with self._lock:  # those who come meanwhile share the look
            if time.monotonic() - self._looked_at >= self._most_age_s:
                self._report = await self._look()
                self._looked_at = time.monotonic()
        if self.stopping:
            return Report({**self._report.checks, "api": "stopping"}, self._report.models)
        return self._report

    async def _look(self) -> Report:
        catalogue = self._catalogue
        try:
            async with asyncio.timeout(REDIS_PATIENCE_S):
                await catalogue.refresh()  # the next request must see the same workers
        except (StoreUnavailableError, TimeoutError):
            return Report({"redis": "unreachable", "schema": "unknown", "worker": "unknown"})
        except StoreFaultError:
            return Report({"redis": "refuses a command", "schema": "unknown", "worker": "unknown"})
        checks = {**CHECKS, **{name: look() for name, look in self._looks.items()}}
        if not catalogue.has_worker:
            checks["worker"] = "none is alive"
        return Report(checks, tuple(name for name, model in catalogue.listed() if catalogue.open(model)))
