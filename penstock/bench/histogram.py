"""Times in a histogram of bounded size, and where their percentiles are."""

from __future__ import annotations

import math

_STEP = 1.01
_LOG = math.log(_STEP)
_FROM_S = 1e-6

QUANTILES = (0.5, 0.9, 0.95, 0.99)


class Histogram:
    """Times in buckets that are one per cent wide, so that a percentile is within half a per cent however many there are.

    Attributes:
        count: of the times.
        total_s: their sum.
        least_s, most_s: the shortest and the longest.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self.least_s = math.inf
        self.most_s = 0.0
        self._buckets: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """Count a time."""
        bucket = int(math.log(seconds / _FROM_S) / _LOG) if seconds > _FROM_S else 0
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.total_s += seconds
        self.least_s = min(self.least_s, seconds)
        self.most_s = max(self.most_s, seconds)

    def quantile(self, share: float) -> float | None:
        """Return the time below which ``share`` (0 to 1) of them lie, by nearest rank; None if there are none."""
        if not self.count:
            return None
        rank = max(math.ceil(share * self.count), 1)
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                return min(max(_middle(bucket), self.least_s), self.most_s)
        return self.most_s

    def bars(self, count: int) -> list[tuple[float, float, int]]:
        """Return bars of a picture, from the shortest to the longest time: from, to, how many. The steps are geometric."""
        if not self.count:
            return []
        low, high = max(self.least_s, _FROM_S), max(self.most_s, _FROM_S)
        if high / low < _STEP**2:
            return [(low, high, self.count)]
        width = (high / low) ** (1 / count)
        found = [0] * count
        for bucket, times in self._buckets.items():
            middle = min(max(_middle(bucket), low), high)
            found[min(int(math.log(middle / low) / math.log(width)), count - 1)] += times
        return [(low * width**at, low * width ** (at + 1), times) for at, times in enumerate(found)]

    def as_json(self) -> dict[str, float | int | None]:
        """Return count, mean and percentiles in milliseconds."""
        figures: dict[str, float | int | None] = {"count": self.count}
        for name, value in (
            ("mean", self.total_s / self.count if self.count else None),
            ("min", self.least_s if self.count else None),
            *((f"p{share * 100:g}", self.quantile(share)) for share in QUANTILES),
            ("max", self.most_s if self.count else None),
        ):
            figures[name] = None if value is None else round(value * 1000, 3)
        return figures


def _middle(bucket: int) -> float:
    return _FROM_S * math.exp(_LOG * (bucket + 0.5))
