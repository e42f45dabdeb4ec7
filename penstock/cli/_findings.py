"""What ``penstock doctor`` finds: one finding for each thing it looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import click

from penstock.cli._table import printable


class Level(StrEnum):
    """How good a thing is. ``SKIPPED``: it could not be looked at, or there is nothing to look at."""

    OK = "ok"
    SKIPPED = "skipped"
    WARN = "warn"
    FAIL = "fail"


_COLOURS = {Level.OK: "green", Level.SKIPPED: None, Level.WARN: "yellow", Level.FAIL: "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        area: what it belongs to, such as ``redis``.
        name: what was looked at, such as ``persistence``.
        said: what is there.
        advice: what it means and what to do; empty if nothing is to be done.
    """

    level: Level
    area: str
    name: str
    said: str
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self)


class Area:
    """Makes the findings of one area."""

    def __init__(self, name: str) -> None:
        self._name = name

    def ok(self, name: str, said: str) -> Finding:
        """It is as it should be."""
        return Finding(Level.OK, self._name, name, said)

    def skipped(self, name: str, said: str, advice: str = "") -> Finding:
        """It was not looked at."""
        return Finding(Level.SKIPPED, self._name, name, said, advice)

    def warn(self, name: str, said: str, advice: str) -> Finding:
        """It works, and may hurt."""
        return Finding(Level.WARN, self._name, name, said, advice)

    def fail(self, name: str, said: str, advice: str) -> Finding:
        """It does not work."""
        return Finding(Level.FAIL, self._name, name, said, advice)

    def bounded(self, name: str, said: str, *, bad: bool, worse: bool = False, advice: str) -> Finding:
        """Fail if it is ``worse``, warn if it is ``bad``, with the advice; else it is fine."""
        if worse:
            return self.fail(name, said, advice)
        return self.warn(name, said, advice) if bad else self.ok(name, said)


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """Return how many findings there are of each level."""
    levels = [finding.level for finding in findings]
    return {level.value: levels.count(level) for level in Level}


def guarded(area: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a look. One that breaks is a finding too: the others still have their say."""
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001 - see above
        yield Finding(
            Level.SKIPPED,
            area,
            "look",
            f"it broke off: {type(error).__name__}: {error}",
            "Please report this.",
        )


def show(findings: Iterable[Finding]) -> None:
    """Print findings for people, area by area."""
    area = ""
    for one in findings:
        if one.area != area:
            click.echo(click.style(f"{one.area}", bold=True))
            area = one.area
        level = click.style(f"{one.level.value:7}", fg=_COLOURS[one.level], dim=one.level is Level.SKIPPED)
        click.echo(f"  {level} {one.name}: {printable(one.said)}")
        if one.advice:
            click.echo(f"          {printable(one.advice)}")
