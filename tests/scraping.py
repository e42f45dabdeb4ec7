"""Reading what a process says at ``/metrics``, from tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Scraped:
    """The samples of one scrape, or of several: those are added up, as ``sum`` in PromQL does."""

    samples: tuple[tuple[str, frozenset[tuple[str, str]], float], ...]

    @classmethod
    async def of(cls, *urls: str) -> Self:
        """Scrape each of these addresses."""
        samples: list[tuple[str, frozenset[tuple[str, str]], float]] = []
        async with httpx.AsyncClient(timeout=20) as http:
            for url in urls:
                for family in text_string_to_metric_families((await http.get(url)).text):
                    samples += [
                        (one.name, frozenset(one.labels.items()), one.value) for one in family.samples
                    ]
        return cls(tuple(samples))

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Add up the series of a name by the values of some of their labels."""
        found: dict[tuple[str, ...], float] = {}
        for one, its, value in self.samples:
            if one == name:
                place = tuple(dict(its).get(label, "") for label in labels)
                found[place] = found.get(place, 0) + value
        return found

    def sum(self, name: str, /, **labels: str) -> float:
        """Add up the series of a name that have these labels.

        Raises:
            AssertionError: there are none.
        """
        wanted = labels.items()
        found = [value for one, its, value in self.samples if one == name and its >= wanted]
        assert found, f"no series {name} {labels}"
        return sum(found)
