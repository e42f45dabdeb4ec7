"""What the commands print: JSON for programs, tables and live text for people. rich is imported on use."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from penstock.cli._run import note

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console as RichConsole

    from penstock.fleet_models import Worker
    from penstock.models import Health, Job, Model

T = TypeVar("T")

# Generated text is not to be trusted with the terminal: control characters go, but newline and tab stay.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_ROOMY = 110
"""Columns from which a list of jobs shows everything."""

_STYLES = {
    "succeeded": "green",
    "running": "cyan",
    "failed": "red",
    "expired": "yellow",
    "cancelled": "yellow",
    "ready": "green",
    "draining": "yellow",
}


def as_json(value: BaseModel | dict[str, Any]) -> None:
    """Print one JSON object on one line, at once."""
    plain = value if isinstance(value, dict) else value.model_dump(mode="json")
    click.echo(json.dumps(plain, ensure_ascii=False, separators=(",", ":")))
    sys.stdout.flush()


def printable(text: str) -> str:
    """Return text that cannot steer the terminal; unchanged where stdout is none."""
    return _CONTROL.sub("", text) if sys.stdout.isatty() else text


def live(text: str) -> None:
    """Print a piece of generated text at once."""
    click.echo(printable(text), nl=False)
    sys.stdout.flush()


def job_result(job: Job) -> None:
    """Print what a finished job produced: its text, or its whole result where that is not text."""
    if job.text:
        click.echo(printable(job.text))
    elif job.result is not None:
        as_json(job.result)


def summary(job: Job) -> str:
    """Return one line on how the job went: tokens, tokens per second, times in milliseconds."""
    parts = [job.state]
    if job.usage is not None:
        parts.append(f"{job.usage.prompt_tokens} + {job.usage.completion_tokens} tokens")
    times = job.timings
    if times.tokens_per_s is not None:
        parts.append(f"{times.tokens_per_s:.1f} tok/s")
    if times.queue_ms is not None:
        parts.append(f"queue {times.queue_ms:.0f} ms")
    if times.total_ms is not None:
        parts.append(f"total {times.total_ms:.0f} ms")
    if job.attempt > 1:
        parts.append(f"attempt {job.attempt}")
    return " · ".join([*parts, job.id])


def print_summary(job: Job) -> None:
    """Print :func:`summary` on stderr, where it does not mix with the output."""
    note(click.style(summary(job), dim=True))


def job_panel(job: Job) -> None:
    """Print a job as a panel of its fields, then its text if it has any."""
    from rich.panel import Panel  # see the module's docstring
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _fields(job):
        grid.add_row(name, Text(printable(value), style=_STYLES.get(value, "") if name == "state" else ""))
    _rich().print(Panel(grid, title=job.id, title_align="left", expand=False))
    if job.text:
        click.echo(printable(job.text))


def jobs_table(jobs: Iterable[Job]) -> None:
    """Print jobs as a table, a line each: where any waits, with its place; how it went, where there is room for both."""
    listed = list(jobs)
    waits = any(job.position is not None for job in listed)
    went = not waits or _rich().width >= _ROOMY

    def row(job: Job) -> tuple[str, ...]:
        place = "" if job.position is None else str(job.position)
        eta = "" if job.eta_s is None else _about(job.eta_s)
        tokens = str(job.usage.total_tokens) if job.usage else ""
        total = f"{job.timings.total_ms:.0f}" if job.timings.total_ms is not None else ""
        facts = job.id, job.state, job.model, job.priority, _ago(job.created_at)
        return facts + (place, eta) * waits + (tokens, total) * went

    columns: tuple[str, ...] = ("id", "state", "model", "priority", "created")
    columns += ("position", "eta") * waits + ("tokens", "total ms") * went
    _table(columns, listed, row, "no jobs", cut=("model", "priority"))


def dead_table(jobs: Iterable[Job]) -> None:
    """Print dead jobs as a table, a line each, with why they died as far as that fits."""

    def row(job: Job) -> tuple[str, ...]:
        code, message = (job.error.code, job.error.message) if job.error else (job.state, "")
        return job.id, code, job.model, _ago(job.timings.finished_at), " ".join(message.split())

    _table(("id", "code", "model", "ended", "message"), jobs, row, "no dead jobs", cut=("model", "message"))


def workers_table(workers: Sequence[Worker]) -> None:
    """Print workers as a table, a line each; their pools where there are several, their devices where known."""
    pools = len({worker.pool for worker in workers}) > 1
    devices = any(worker.device for worker in workers)

    def row(worker: Worker) -> tuple[str, ...]:
        share = worker.kv_cache_usage
        return (
            worker.name,
            worker.state,
            f"{worker.active} of {worker.capacity}" if worker.capacity else str(worker.active),
            "" if worker.engine_waiting is None else str(worker.engine_waiting),
            "" if share is None else f"{share:.0%}",
            _ago(worker.started_at),
            *([worker.pool] if pools else []),
            *([_device(worker)] if devices else []),
            " ".join(worker.models),
        )

    some = (*(["pool"] if pools else []), *(["device"] if devices else []))
    columns = ("name", "state", "running", "waiting", "kv", "started", *some, "models")
    _table(columns, workers, row, "no worker is alive", cut=("models",))


def _device(worker: Worker) -> str:
    """Say what a worker runs on: ``2 x NVIDIA L4``."""
    times = f"{worker.devices} x " if (worker.devices or 1) > 1 else ""
    return f"{times}{worker.device}" if worker.device else ""


def models_table(models: Iterable[Model]) -> None:
    """Print the served models as a table."""

    def row(model: Model) -> tuple[str, ...]:
        return model.id, str(model.max_model_len or ""), model.owned_by or ""

    _table(("model", "context", "owned by"), models, row, "no model is served", cut=())


def health_lines(health: Health, url: str) -> None:
    """Print the state of the server and each of its checks."""
    click.echo(f"{url} is {click.style(health.status, fg='green' if health.ready else 'red')}")
    for name, state in health.checks.items():
        click.echo(f"  {name}: {printable(state)}")


def _fields(job: Job) -> list[tuple[str, str]]:
    fields = [
        ("state", job.state),
        ("model", job.model),
        ("endpoint", job.endpoint),
        ("priority", job.priority),
    ]
    if where := standing(job):
        fields.append(("position", where))
    if job.not_before is not None:
        fields.append(("next attempt", f"in {max(job.not_before - time.time(), 0):.0f} s"))
    if job.created_at is not None:
        fields.append(("created", _ago(job.created_at)))
    if limits := _limits(job):
        fields.append(("limits", ", ".join(limits)))
    if job.attempt:
        fields.append(("attempt", f"{job.attempt} of {job.max_attempts}"))
    if job.worker:
        fields.append(("worker", job.worker))
    fields += [(f"metadata {key}", value) for key, value in job.metadata.items()]
    if job.done:
        fields.append(("summary", summary(job).removesuffix(f" · {job.id}").removeprefix(f"{job.state} · ")))
    elif job.cancel_requested:
        fields.append(("cancel", "requested"))
    if job.error is not None:
        fields.append(("error", f"{job.error.code}: {job.error.message}"))
    fields += [("warning", warning.message) for warning in job.warnings]
    rest = (
        ("runs as", job.coalesced_with),
        ("retry of", job.retry_of),
        ("retried as", job.retried_as),
        ("trace", job.trace_id),
        ("partial", job.partial_text),
    )
    return fields + [(name, value) for name, value in rest if value]


def standing(job: Job) -> str:
    """Say how many jobs come before a queued one, and when it starts by estimate; nothing where that is not known."""
    if job.position is None:
        return ""
    place = "next" if job.position == 0 else f"{job.position} before it"
    return place if job.eta_s is None else f"{place}, starts in about {_about(job.eta_s)}"


def _about(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def _limits(job: Job) -> list[str]:
    whole = None if job.expires_at is None or job.created_at is None else job.expires_at - job.created_at
    limits = (("whole life", whole), ("to its start", job.queue_timeout_s), ("an attempt", job.timeout_s))
    return [f"{name} {seconds:g} s" for name, seconds in limits if seconds is not None]


def _table(
    columns: tuple[str, ...],
    items: Iterable[T],
    row: Callable[[T], tuple[str, ...]],
    empty: str,
    *,
    cut: tuple[str, ...],
) -> None:
    """Print a table.

    Args:
        columns: their names.
        items: a line each.
        row: an item's cells.
        empty: said on stderr where there is no item.
        cut: the columns that are cut short where the terminal is too narrow.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        # What the user copies is never cut short.
        table.add_column(column, no_wrap=column not in cut, overflow="fold")
    for item in items:
        cells = [Text(printable(cell), style=_STYLES.get(cell, "")) for cell in row(item)]
        for column in cut:
            cells[columns.index(column)].no_wrap = True
            cells[columns.index(column)].overflow = "ellipsis"
        table.add_row(*cells)
    if table.row_count:
        _rich().print(table)
    else:
        note(empty)


def _rich() -> RichConsole:
    from rich.console import Console

    # Not on a terminal there is no width to keep to.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def _ago(when: float | None) -> str:
    if when is None:
        return ""
    past = max(time.time() - when, 0.0)
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if past >= unit:
            return f"{past / unit:.0f}{name} ago"
    return f"{past:.0f}s ago"
