"""Makes Prometheus's metrics count nothing, for the side of ``observing.py`` that is to have none; Python imports it."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram


def _nothing(self: object, *args: object, **kwargs: object) -> None:
    """Stand where the method counted."""


for kind, methods in ((Counter, ("inc",)), (Gauge, ("inc", "dec", "set")), (Histogram, ("observe",))):
    for method in methods:
        setattr(kind, method, _nothing)
