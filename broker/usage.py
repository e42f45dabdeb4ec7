"""Usage, as it is read: what each tenant, key and model used on a day. The functions that end jobs and rows count it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Final

from broker.db.calls.usage import UsageFold
from broker.jobs import StorePart

DETAILED_DAYS: Final = 62
"""For so long a day's rows name their keys."""

_STEP: Final = 1_000
_FOLD_STEP: Final = 500


@dataclass(frozen=True, slots=True)
class Tally:
    """What was used.

    Attributes:
        requests: jobs and rows of batches that ended.
        failures: those of them that failed or expired.
        prompt: tokens of prompts; of these ``cached`` were found in a cache.
        completion: tokens of answers.
        device_us: microseconds of device.
        rows: those of the requests that were rows of batches.
    """

    requests: int = 0
    failures: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    device_us: int = 0
    rows: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


@dataclass(frozen=True, slots=True)
class Row:
    """What a tenant used of a model on a day.

    Attributes:
        key: id of the API key; ``-``: none was required; ``*``: of a day without keys; ``other``: beyond the bound of a day.
        model: its name, or ``other``.
    """

    day: date
    tenant: str
    key: str
    model: str
    tally: Tally


class UsageStore(StorePart):
    """Reads usage, and folds old days."""

    _folded: tuple[date, int] | None = None
    """The day on which, and the retention for which, nothing was left to fold: until the next day it stays so."""

    async def rows(self, first: date, last: date, tenant: str | None = None) -> AsyncIterator[Row]:
        """Yield the rows of days, in their order.

        Args:
            tenant: only this tenant's; None: every tenant's.
        """
        today = await self._today()
        for age in range((today - first).days, (today - last).days - 1, -1):
            day = today - timedelta(days=age)
            key, seen = self._keys("usage", f"{day:%Y%m%d}"), set[str]()
            async for found in self._whole(key) if age > DETAILED_DAYS else self._parts(key, tenant):
                for field, value in found.items():
                    row = None if field in seen else _row(day, field, value)
                    seen.add(field)  # a scan may give a field twice
                    if row is not None and tenant in {None, row.tenant}:
                        yield row

    async def _whole(self, key: str) -> AsyncIterator[dict[str, str]]:
        """Read a day at once, since it may be folded meanwhile."""
        yield await self._execute(self._client.hgetall(key))

    async def _parts(self, key: str, tenant: str | None) -> AsyncIterator[dict[str, str]]:
        cursor: int | None = None
        while cursor != 0:
            match = None if tenant is None else f"{tenant} *"
            cursor, found = await self._execute(self._client.hscan(key, cursor or 0, match, _STEP))
            yield found

    async def fold(self, retention_days: int, steps: int = 20) -> bool:
        """Fold days that are older than :data:`DETAILED_DAYS`, in bounded steps. Return whether something is left."""
        today = await self._today()
        if self._folded == (today, retention_days):
            return False
        days = [
            f"{today - timedelta(days=age):%Y%m%d}" for age in range(DETAILED_DAYS + 1, retention_days + 2)
        ]
        cursor = "0"
        for _ in range(steps):
            answer = await self._call(UsageFold(days, cursor, _FOLD_STEP))
            if answer.day is None:
                self._folded = (today, retention_days)
                return False
            cursor = answer.cursor
        return True

    async def _today(self) -> date:
        """Return the day that is counted now."""
        return datetime.fromtimestamp(await self._store.now_ms() / 1000, UTC).date()


def _row(day: date, field: str, value: str) -> Row | None:
    """Read a row; None: it is the mark of a folded day."""
    tenant, _, rest = field.partition(" ")
    key, _, model = rest.partition(" ")
    return Row(day, tenant, key, model, Tally(*map(int, value.split()))) if model else None
