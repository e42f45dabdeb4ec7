"""The commands that report: ``penstock usage`` and ``penstock audit``."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import click
from click import option

from penstock.cli._exits import EXIT_CODES, note
from penstock.cli._parse import duration
from penstock.cli._run import Console, client_command, limit_options, print_json
from penstock.cli._table import Column, Columns, printable, screen, table

if TYPE_CHECKING:
    from penstock.ledger_models import Act, UsageBucket, UsageResult

_GROUPS = ("tenant", "key", "model")
_SHOWN = {"key": ("key", "key_name")}
_MAY_LACK = {"key_name", "cost"}
"""Columns that a table leaves out if no line has a value."""

_COUNTS = (
    *("requests", "failures", "batch_rows", "input_tokens", "input_cached_tokens", "output_tokens"),
    *("gpu_seconds", "cost"),
)
_FOLLOW_EVERY_S = 1.0
_ROOMY = 140
"""Columns from which an act is one line; on a narrower terminal it is two, because its ids are never cut."""


def _groups(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in _GROUPS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(_GROUPS)}")
    return names


@click.command("usage", epilog=EXIT_CODES)
@option(
    "--by", "by", type=_groups, default="model", show_default=True, metavar="NAMES", help="tenant,key,model"
)
@option("--since", type=duration, default="30d", show_default=True, metavar="TIME", help="How far back.")
@option("--bucket", type=click.Choice(["day", "month", "all"]), default="all", show_default=True)
@option("--tenant", metavar="NAME", help="Only this tenant's (administrators).")
@option("--csv", "as_csv", is_flag=True, help="Comma-separated values, with a line of names.")
@client_command
def usage(
    console: Console, *, by: tuple[str, ...], since: float, bucket: str, tenant: str | None, as_csv: bool
) -> None:
    """Say what was used: requests, tokens, GPU time, and its cost if the server has prices.

    \b
    Examples:
      penstock usage
      penstock usage --by tenant,model --since 7d --bucket day
      penstock usage --by tenant,key --bucket month --since 365d --csv > usage.csv

    Whole days of UTC are counted. A key sees its own tenant; one with the scope admin sees all, and the names of keys.
    """  # noqa: D301  # \b is click's mark
    step: Literal["day", "month"] = "month" if bucket == "month" else "day"
    with console.client() as client:
        found = client.usage.get(group_by=by, bucket=step, start=time.time() - since, tenant=tenant)
    rows = _total(found) if bucket == "all" else [(one.start_time, it) for one in found for it in one.results]
    groups = [name for group in _GROUPS if group in by for name in _SHOWN.get(group, (group,))]
    names = (*(("from",) if bucket != "all" else ()), *groups, *_COUNTS)
    lines = [_line(start, result, names) for start, result in rows]
    if as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(names)
        writer.writerows(["" if line[name] is None else line[name] for name in names] for line in lines)
    elif console.json:
        for line in lines:
            print_json(line)
    else:
        _print_usage(lines, names)


def _total(buckets: Iterable[UsageBucket]) -> list[tuple[int, UsageResult]]:
    """Add up the buckets of each group."""
    sums: dict[tuple[str | None, ...], UsageResult] = {}
    for bucket in buckets:
        for result in bucket.results:
            place = result.tenant, result.key, result.model
            old = sums.get(place)
            sums[place] = result if old is None else old.model_copy(update=_sums(old, result))
    return [(0, sums[place]) for place in sorted(sums, key=lambda place: [name or "" for name in place])]


def _sums(one: UsageResult, other: UsageResult) -> dict[str, Any]:
    both = {name: (getattr(one, name), getattr(other, name)) for name in _COUNTS}
    return {
        name: None if pair == (None, None) else sum(value or 0 for value in pair)
        for name, pair in both.items()
    }


def _line(start: int, result: UsageResult, names: tuple[str, ...]) -> dict[str, Any]:
    day = datetime.fromtimestamp(start, UTC).date().isoformat()
    return {name: day if name == "from" else getattr(result, name) for name in names}


def _cell_of(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda line: _cell(line[name])


def _print_usage(lines: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    shown = [name for name in names if name not in _MAY_LACK or any(line[name] is not None for line in lines)]
    columns: Columns[dict[str, Any]] = [
        Column(name.replace("_", " "), _cell_of(name), right=name in _COUNTS) for name in shown
    ]
    if lines:
        screen().print(table(columns, lines))
    else:
        note("nothing was used")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@click.command("audit", epilog=EXIT_CODES)
@option("--what", metavar="WHAT", help="Only this act, such as pool.pause, or acts of this kind: pool.")
@option("--tenant", metavar="NAME", help="Only acts by this tenant, or on what belongs to it.")
@option("--since", type=duration, metavar="TIME", help="How far back.  [default: all]")
@option("--follow", is_flag=True, help="Print further acts as they happen, oldest first.")
@limit_options
@client_command
def audit(
    console: Console,
    *,
    what: str | None,
    tenant: str | None,
    since: float | None,
    follow: bool,
    limit: int | None,
) -> None:
    """List administrative acts, newest first: who did what, on what, from where, when.

    \b
    Examples:
      penstock audit --since 24h
      penstock audit --what key --tenant acme
      penstock audit --all --json > audit.jsonl
      penstock audit --follow

    Needs a key with the scope admin.
    """  # noqa: D301  # \b is click's mark
    start = None if since is None else time.time() - since
    with console.client() as client:
        if not follow:
            acts = client.audit.list(what=what, tenant=tenant, since=start, limit=limit, page_size=1000)
            console.show_all(acts, _print_acts)
            return
        seen: set[str] = set()
        start = time.time() if start is None else start
        while True:
            for act in client.audit.list(what=what, tenant=tenant, since=start, order="asc"):
                if act.id not in seen:
                    console.show(act, _act_line(act))
                if act.created_at > start:
                    seen.clear()  # of acts at one moment, those that were printed
                    start = act.created_at
                seen.add(act.id)
            time.sleep(_FOLLOW_EVERY_S)


def _print_acts(acts: Iterable[Act]) -> None:
    if screen().width < _ROOMY:
        nothing = True
        for act in acts:
            nothing = False
            click.echo(printable(_act_line(act)))
        if nothing:
            note("no acts")
        return
    columns: Columns[Act] = [
        Column("when", lambda act: _when(act.created_at)),
        Column("what", lambda act: act.what),
        Column("on", lambda act: act.on),
        Column("by", _who),
        Column("from", lambda act: act.by.address or ""),
        Column("details", _details, cut=True),
    ]
    made = table(columns, acts)
    if made.row_count:
        screen().print(made)
    else:
        note("no acts")


def _act_line(act: Act) -> str:
    """Return an act as text; on a narrow terminal with a second line for who did it, and the details."""
    where = f"from {act.by.address}" if act.by.address else ""
    whose = "  ".join(part for part in (f"by {_who(act)}", where, _details(act)) if part)
    between = "\n    " if screen().width < _ROOMY else "  "
    return f"{_when(act.created_at)}  {act.what}  {act.on}{between}{whose}"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _who(act: Act) -> str:
    if act.by.key is None:
        return act.by.tenant
    return f"{act.by.tenant}/{act.by.key}" + (f" ({act.by.key_name})" if act.by.key_name else "")


def _details(act: Act) -> str:
    return " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in act.details.items()
    )
