"""What ``penstock top`` draws: one look at the server as tables, for terminals from 64 columns on. No I/O."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.cli._table import Cell, Column, Columns, plural, printable, span, table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from penstock.fleet_models import Gpu, Lane, Pool, Tenant, Worker
    from penstock.models import Job

    _Row = tuple[Pool, Lane, bool]  # the last: the lane is the pool's first

NARROW = 110
"""Below this many columns the tables leave out what other commands show too."""

_SLOW_S = 30.0
"""A job that has waited longer than this is drawn in yellow."""


@dataclass(frozen=True, slots=True)
class Look:
    """The server's state at one moment.

    ``pools`` is None from a server that is too old to tell. ``oldest`` are the running jobs that were submitted first.
    ``error`` says why there is nothing newer, if the last question failed.
    """

    at: float
    url: str
    workers: tuple[Worker, ...] = ()
    pools: tuple[Pool, ...] | None = None
    oldest: tuple[Job, ...] = ()
    error: str | None = None

    @property
    def running(self) -> int:
        """Jobs and rows on all workers."""
        return sum(worker.active for worker in self.workers)

    @property
    def capacity(self) -> int:
        """Jobs and rows that all workers may run at once."""
        return sum(worker.capacity or 0 for worker in self.workers)

    @property
    def queued(self) -> int | None:
        """Jobs that wait in all pools; None if the server does not say."""
        return None if self.pools is None else sum(pool.queued for pool in self.pools)

    @property
    def tokens_per_s(self) -> float | None:
        """The rate of all workers together; None if none of them says."""
        said = [worker.tokens_per_s for worker in self.workers if worker.tokens_per_s is not None]
        return sum(said) if said else None

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        plain = {"result", "partial"}
        return {
            "at": self.at,
            "url": self.url,
            "running": self.running,
            "capacity": self.capacity,
            "queued": self.queued,
            "tokens_per_s": self.tokens_per_s,
            "pools": None if self.pools is None else [pool.model_dump(mode="json") for pool in self.pools],
            "workers": [worker.model_dump(mode="json") for worker in self.workers],
            "oldest_running": [job.model_dump(mode="json", exclude=plain) for job in self.oldest],
        }


def draw(look: Look, width: int, height: int | None = None) -> RenderableType:
    """Draw a look for a terminal of this size; ``height`` None: as many lines as the tables need."""
    from rich.console import Group
    from rich.text import Text

    wide = width >= NARROW
    parts: list[RenderableType] = [_headline(look)]
    if look.error is not None:
        parts.append(Text(printable(look.error), style="red", overflow="ellipsis", no_wrap=True))
    if look.pools is not None:
        parts += [Text(), pools_table(look.pools, wide=wide)]
    parts += [Text(), _workers(look.workers, wide=wide)]
    gpus: dict[tuple[str | None, str], tuple[Worker, Gpu]] = {}
    for one in look.workers:
        for gpu in one.gpus:  # each is drawn once, by the first worker that has it
            gpus.setdefault((one.host, gpu.uuid or str(gpu.index)), (one, gpu))
    if gpus:
        parts += [Text(), _gpus(gpus.values(), wide=wide)]
    if look.oldest:
        parts += [Text(), _jobs(look.oldest, look.at, wide=wide)]
    return _Cut(Group(*parts), height)


class _Cut:
    """Draws at most this many lines, so that a small screen does not scroll."""

    def __init__(self, inner: RenderableType, height: int | None) -> None:
        self._inner, self._height = inner, height

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        from rich.segment import Segment

        lines = console.render_lines(self._inner, options.update(height=None), pad=False)
        shown = lines if self._height is None else lines[: self._height]
        for number, line in enumerate(shown):
            if number:
                yield Segment.line()
            yield from line
        if self._height is None:
            yield Segment.line()


def _headline(look: Look) -> Text:
    from rich.text import Text

    parts = [
        (time.strftime("%H:%M:%S", time.localtime(look.at)), "bold"),
        (plural(len(look.workers), "worker"), "" if look.workers else "red"),
        (f"{look.running}/{look.capacity} running", ""),
    ]
    if look.queued is not None:
        parts.append((f"{look.queued} queued", ""))
    if look.tokens_per_s is not None:
        parts.append((f"{look.tokens_per_s:,.0f} tok/s", "green"))
    parts.append((look.url, "dim"))
    line = Text(overflow="ellipsis", no_wrap=True)
    for number, (text, style) in enumerate(parts):
        line.append(" · " if number else "", "dim")
        line.append(printable(text), style)
    return line


def pools_table(pools: Sequence[Pool], *, wide: bool) -> Table:
    """Draw the lanes in the order in which they are served; the empty ones only if there is room."""
    rows: list[_Row] = []
    for pool in pools:
        lanes = [lane for lane in pool.lanes if lane.queued or wide] or list(pool.lanes[:1])
        rows += [(pool, lane, number == 0) for number, lane in enumerate(lanes)]
    columns: Columns[_Row] = [
        Column("pool", lambda row: _pool_name(row[0]) if row[2] else "", cut=True),
        Column("lane", lambda row: row[1].lane),
        Column("queued", lambda row: _count(row[1].queued), right=True),
        Column("oldest", lambda row: _age(row[1].oldest_s), right=True),
        Column("mean run", lambda row: _mean_run(*row), right=True),
        Column("running", lambda row: str(row[0].running) if row[2] else "", right=True) if wide else None,
        Column("slots", lambda row: _slots(row[0]) if row[2] else "", right=True) if wide else None,
        Column("tenants", lambda row: str(len(row[0].tenants)) if row[2] else "", right=True)
        if wide
        else None,
    ]
    return table(columns, rows)


def tenants_table(tenants: Iterable[tuple[Pool, Tenant]]) -> Table:
    """Draw what each tenant has in each pool."""
    columns: Columns[tuple[Pool, Tenant]] = [
        Column("pool", lambda row: row[0].pool, cut=True),
        Column("tenant", lambda row: row[1].tenant, cut=True),
        Column("queued", lambda row: str(row[1].queued), right=True),
        Column("active", lambda row: str(row[1].active), right=True),
    ]
    return table(columns, tenants)


def _pool_name(pool: Pool) -> Cell:
    return (f"{pool.pool} (paused)", "yellow") if pool.paused else pool.pool


def _slots(pool: Pool) -> str:
    return str(pool.slots) if pool.max_active is None else f"{pool.slots} (max {pool.max_active})"


def _mean_run(pool: Pool, lane: Lane, first: bool) -> str:  # noqa: FBT001 - a row of the table
    """Say the mean run of the lanes that share one, on the pool's first line, or that of bulk."""
    return _span(pool.mean_bulk_run_s if lane.lane == "bulk" else pool.mean_run_s if first else None)


def _age(seconds: float | None) -> Cell:
    return _span(seconds), "yellow" if (seconds or 0) > _SLOW_S else ""


def _workers(workers: Sequence[Worker], *, wide: bool) -> Table:
    columns: Columns[Worker] = [
        Column("worker", lambda one: one.name, cut=True),
        Column("pool", lambda one: one.pool, cut=True) if wide else None,
        Column("state", lambda one: one.state),
        Column("running", _running, right=True),
        Column("in engine", _in_engine, right=True),
        Column("kv", lambda one: _share(one.kv_cache_usage), right=True),
        Column("tok/s", lambda one: _number(one.tokens_per_s), right=True),
        Column("jobs/s", lambda one: _number(one.jobs_per_s), right=True) if wide else None,
        Column("wait", lambda one: "" if one.wait_ms is None else span(one.wait_ms / 1000), right=True),
        Column("up", lambda one: _since(one.started_at, time.time()), right=True) if wide else None,
        Column("models", lambda one: " ".join(one.models), cut=True) if wide else None,
    ]
    made = table(columns, sorted(workers, key=lambda one: (one.pool, one.name, one.id)))
    if not workers:
        made.add_row("no worker is alive", style="red")
    return made


def _running(worker: Worker) -> str:
    return f"{worker.active}/{worker.capacity}" if worker.capacity else str(worker.active)


def _in_engine(worker: Worker) -> str:
    running = "" if worker.engine_running is None else str(worker.engine_running)
    return f"{running} +{worker.engine_waiting}" if worker.engine_waiting else running


def _gpus(gpus: Iterable[tuple[Worker, Gpu]], *, wide: bool) -> Table:
    columns: Columns[tuple[Worker, Gpu]] = [
        Column("gpu", lambda row: f"{row[1].index} {row[1].name or ''}".rstrip(), cut=True),
        Column("util", lambda row: _share(row[1].utilization), right=True),
        Column("memory", lambda row: _memory(row[1]), right=True),
        Column("temp", lambda row: _unit(row[1].temperature_c, "°C"), right=True),
        Column("power", lambda row: _unit(row[1].power_w, "W"), right=True),
        Column("worker", lambda row: row[0].name, cut=True) if wide else None,
    ]
    return table(columns, gpus)


def _memory(gpu: Gpu) -> str:
    used, total = gpu.memory_used_bytes, gpu.memory_total_bytes
    return "" if used is None or not total else f"{used / 2**30:.1f}/{total / 2**30:.0f} GiB"


def _jobs(jobs: Sequence[Job], now: float, *, wide: bool) -> Table:
    columns: Columns[Job] = [
        Column("longest running", lambda job: job.id),
        Column("lane", lambda job: job.priority),
        Column("for", lambda job: _since(job.timings.started_at, now), right=True),
        Column("attempt", lambda job: str(job.attempt), right=True),
        Column("worker", lambda job: job.worker or "", cut=True) if wide else None,
        Column("model", lambda job: job.model, cut=True) if wide else None,
    ]
    return table(columns, jobs)


def _count(count: int) -> Cell:
    return str(count), "" if count else "dim"


def _share(share: float | None) -> Cell:
    if share is None:
        return ""
    return f"{share:.0%}", "red" if share > 0.95 else "yellow" if share > 0.8 else ""


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def _unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.0f} {unit}"


def _span(seconds: float | None) -> str:
    return "" if seconds is None else span(seconds)


def _since(start: float | None, now: float) -> str:
    return "" if start is None else span(max(now - start, 0.0))
