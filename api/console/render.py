"""Templates: everything that they show is escaped, and there is no way around it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from api.console import assets

FOLDER: Final = Path(__file__).with_name("templates")
NONE: Final = "\N{EM DASH}"
"""Shown where a value is missing."""

LIVE: Final = "live_"
"""How the names of those blocks begin that are sent anew while a page is open. Each fills the element of that id."""


class Templates:
    """The templates, each read once."""

    def __init__(self) -> None:
        self._env = Environment(
            loader=FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._env.filters |= {
            "number": number,
            "compact": compact,
            "duration": duration,
            "bytes": size,
            "percent": percent,
            "when": when,
            "attr_json": attr_json,
        }
        self._env.globals["asset"] = lambda name: f"console/static/{assets.version()}/{name}"
        self._env.globals["ui"] = self._env.get_template("_ui.html").module

    def page(self, name: str, data: Mapping[str, Any]) -> str:
        """Return a whole page."""
        return self._env.get_template(name).render(data)

    def parts(self, name: str, data: Mapping[str, Any]) -> dict[str, str]:
        """Return those parts of a page that change while it is open, by the ids of their elements."""
        template = self._env.get_template(name)
        context = template.new_context(dict(data))
        return {
            block: "".join(render(context))
            for block, render in template.blocks.items()
            if block.startswith(LIVE)
        }


def number(value: float | None, digits: int = 0) -> str:
    """Return a number as people read it: 12,345; a dash for None."""
    return NONE if value is None else f"{value:,.{digits}f}"


def compact(value: float) -> str:
    """Return a number that is short at any size: 12,345; 96.2 M; 1.4 G."""
    for unit, least in (("G", 1e9), ("M", 1e6)):
        if value >= least:
            return f"{value / least:,.1f} {unit}"
    return number(value)


def percent(value: float | None) -> str:
    """Return a share of 1 in per cent."""
    return NONE if value is None else f"{value * 100:.0f} %"


def duration(seconds: float | None) -> str:
    """Return a duration with one or two units: 850 ms, 12.5 s, 3 min 20 s, 2 h 5 min, 4 d 2 h."""
    if seconds is None:
        return NONE
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for big, small, names in ((86_400, 3600, "d h"), (3600, 60, "h min"), (60, 1, "min s")):
        if whole >= big:
            first, second = names.split()
            rest = whole % big // small
            return f"{whole // big} {first}" + (f" {rest} {second}" if rest else "")
    return f"{whole} s"


def size(value: float | None) -> str:
    """Return a number of bytes in decimal units."""
    if value is None:
        return NONE
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def when(seconds: float | None) -> Markup:
    """Return a time as an element; the page's script shows it as people say it: 3 min ago."""
    if seconds is None:
        return Markup("{}").format(NONE)
    moment = datetime.fromtimestamp(seconds, UTC)
    shown = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}">{}</time>').format(moment.isoformat(timespec="milliseconds"), shown)


def attr_json(value: Any) -> str:
    """Return a value as JSON for an attribute; the template escapes it."""
    return json.dumps(value, separators=(",", ":"))
