"""What ``penstock top`` draws: one look at the server as tables, for terminals from 64 columns on. No I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from penstock.cli._output import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from penstock.fleet_models import Gpu, Lane, Pool, Tenant, Worker
    from penstock.models import Job

NARROW = 110
"""Below so many columns the tables leave out what can be seen elsewhere."""

_SLOW_S = 30.0
"""Who has waited longer than this is drawn in yellow."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the server said at one moment.

    Attributes:
        at: Unix seconds.
        url: the server's address.
        workers: those whose lease is alive.
        pools: their queues; None from a server that does not tell.
        oldest: the running jobs that were submitted first.
        error: why there is nothing newer, where the last question failed.
    """

    at: float
    url: str
    workers: tuple[Worker, ...] = ()
    pools: tuple[Pool, ...] | None = None
    oldest: tuple[Job, ...] = ()
    error: str | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """What all workers generate together; None where none of them says."""
        said = [worker.tokens_per_s for worker in self.workers if worker.tokens_per_s is not None]
        return sum(said) if said else None

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "at": self.at,
            "url": self.url,
            "running": sum(worker.active for worker in self.workers),
            "capacity": sum(worker.capacity or 0 for worker in self.workers),
            "queued": None if self.pools is None else sum(pool.queued for pool in self.pools),
            "tokens_per_s": self.tokens_per_s,
            "pools": None if self.pools is None else [pool.model_dump(mode="json") for pool in self.pools],
            "workers": [worker.model_dump(mode="json") for worker in self.workers],
            "oldest_running": [
                job.model_dump(mode="json", exclude={"result", "partial"}) for job in self.oldest
            ],
        }


def draw(look: Look, width: int, height: int | None = None) -> RenderableType:
    """Draw a look.

    Args:
        look: what to draw.
        width: columns that there are.
        height: lines that there are; None for as many as it takes.
    """
    from rich.console import Group
    from rich.text import Text

    narrow = width < NARROW
    parts: list[RenderableType] = [_headline(look)]
    if look.error is not None:
        parts.append(Text(printable(look.error), style="red", overflow="ellipsis", no_wrap=True))
    if look.pools is not None:
        parts += [Text(), pools_table(look.pools, narrow=narrow)]
    parts += [Text(), _workers(look.workers, narrow=narrow)]
    gpus = [(worker, gpu) for worker in look.workers for gpu in worker.gpus]
    if gpus:
        parts += [Text(), _gpus(gpus, narrow=narrow)]
    if look.oldest:
        parts += [Text(), _jobs(look.oldest, look.at, narrow=narrow)]
    return _Cut(Group(*parts), height)


class _Cut:
    """Draws at most so many lines: what does not fit on a screen must not make it scroll."""

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


def _headline(look: Look) -> RenderableType:
    from rich.text import Text

    running = sum(worker.active for worker in look.workers)
    capacity = sum(worker.capacity or 0 for worker in look.workers)
    parts = [
        (time.strftime("%H:%M:%S", time.localtime(look.at)), "bold"),
        (f"{len(look.workers)} worker{'' if len(look.workers) == 1 else 's'}", "" if look.workers else "red"),
        (f"{running}/{capacity} running", ""),
    ]
    if look.pools is not None:
        parts.append((f"{sum(pool.queued for pool in look.pools)} queued", ""))
    if look.tokens_per_s is not None:
        parts.append((f"{look.tokens_per_s:,.0f} tok/s", "green"))
    parts.append((look.url, "dim"))
    line = Text(overflow="ellipsis", no_wrap=True)
    for number, (text, style) in enumerate(parts):
        line.append(" · " if number else "", "dim")
        line.append(printable(text), style)
    return line


def pools_table(pools: Sequence[Pool], *, narrow: bool) -> Table:
    """Draw the lanes in the order in which they are served; the empty ones only where there is room."""
    columns = ["pool", "lane", ">queued", ">oldest", ">starts/s"]
    if not narrow:
        columns += [">ready", ">running", ">slots", ">mean run", ">tenants"]
    table = _table(columns, cut=("pool",))
    for pool in pools:
        lanes = [lane for lane in pool.lanes if lane.queued or not narrow] or list(pool.lanes[:1])
        for number, lane in enumerate(lanes):
            first = number == 0
            cells = [
                _cut(_pool_name(pool), "yellow" if pool.paused else "") if first else "",
                lane.lane,
                _cell(str(lane.queued), "" if lane.queued else "dim"),
                _age_cell(lane),
                _number(
                    pool.bulk_starts_per_s if lane.lane == "bulk" else pool.starts_per_s if first else None
                ),
            ]
            if not narrow:
                cells.append(_cell(str(lane.dispatched), "" if lane.dispatched else "dim"))
                mean = "" if pool.mean_run_s is None else _span(pool.mean_run_s)
                cells += (
                    [str(pool.running), _slots(pool), mean, str(len(pool.tenants))] if first else [""] * 4
                )
            table.add_row(*cells)
    return table


def tenants_table(tenants: Iterable[tuple[Pool, Tenant]]) -> Table:
    """Draw what each tenant has in each pool."""
    table = _table(["pool", "tenant", ">queued", ">active"], cut=("pool", "tenant"))
    for pool, tenant in tenants:
        table.add_row(_cut(pool.pool), _cut(tenant.tenant), str(tenant.queued), str(tenant.active))
    return table


def _pool_name(pool: Pool) -> str:
    return f"{pool.pool} (paused)" if pool.paused else pool.pool


def _slots(pool: Pool) -> str:
    return str(pool.slots) if pool.max_active is None else f"{pool.slots} (max {pool.max_active})"


def _age_cell(lane: Lane) -> RenderableType:
    if lane.oldest_s is None:
        return ""
    return _cell(_span(lane.oldest_s), "yellow" if lane.oldest_s > _SLOW_S else "")


def _workers(workers: Sequence[Worker], *, narrow: bool) -> Table:
    columns = ["worker", "state", ">running", ">in engine", ">kv", ">tok/s", ">wait"]
    if not narrow:
        columns = ["worker", "pool", *columns[1:-1], ">jobs/s", ">wait", ">up", "models"]
    table = _table(columns, cut=("worker", "pool", "models"))
    for worker in sorted(workers, key=lambda one: (one.pool, one.name, one.id)):
        engine = "" if worker.engine_running is None else str(worker.engine_running)
        if worker.engine_waiting:
            engine += f" +{worker.engine_waiting}"
        cells = [
            _cut(worker.name),
            _cell(worker.state, "green" if worker.state == "ready" else "yellow"),
            f"{worker.active}/{worker.capacity}" if worker.capacity else str(worker.active),
            engine,
            _share(worker.kv_cache_usage),
            _number(worker.tokens_per_s),
            "" if worker.wait_ms is None else _span(worker.wait_ms / 1000),
        ]
        if not narrow:
            up = "" if worker.started_at is None else _span(max(time.time() - worker.started_at, 0))
            cells = [
                cells[0],
                _cut(worker.pool),
                *cells[1:6],
                _number(worker.jobs_per_s),
                cells[6],
                up,
                _cut(" ".join(worker.models)),
            ]
        table.add_row(*cells)
    if not workers:
        table.add_row(_cell("no worker is alive", "red"))
    return table


def _gpus(gpus: Sequence[tuple[Worker, Gpu]], *, narrow: bool) -> Table:
    """Draw the GPUs, each once, by the first worker that has it."""
    table = _table(
        ["gpu", ">util", ">memory", ">temp", ">power", *([] if narrow else ["worker"])], cut=("gpu",)
    )
    seen: set[tuple[str | None, str]] = set()
    for worker, gpu in gpus:
        key = (worker.host, gpu.uuid or str(gpu.index))
        if key in seen:
            continue
        seen.add(key)
        used, total = gpu.memory_used_bytes, gpu.memory_total_bytes
        memory = "" if used is None or not total else f"{used / 2**30:.1f}/{total / 2**30:.0f} GiB"
        temperature = "" if gpu.temperature_c is None else f"{gpu.temperature_c:.0f} °C"
        power = "" if gpu.power_w is None else f"{gpu.power_w:.0f} W"
        name = f"{gpu.index} {gpu.name}" if gpu.name else str(gpu.index)
        cells = [_cut(name), _share(gpu.utilization), memory, temperature, power]
        table.add_row(*cells, *([] if narrow else [_cut(worker.name)]))
    return table


def _jobs(jobs: Sequence[Job], now: float, *, narrow: bool) -> Table:
    table = _table(
        ["longest running", "lane", ">for", ">attempt", *([] if narrow else ["worker", "model"])],
        cut=("worker", "model"),
    )
    for job in jobs:
        since = job.timings.started_at
        cells = [
            job.id,
            job.priority,
            "" if since is None else _span(max(now - since, 0.0)),
            str(job.attempt),
        ]
        table.add_row(
            *(printable(cell) for cell in cells),
            *([] if narrow else [_cut(job.worker or ""), _cut(job.model)]),
        )
    return table


def _table(columns: Iterable[str], cut: Sequence[str]) -> Table:
    """Make a table; a column with ``>`` before its name holds figures, one in ``cut`` is cut short where it is narrow."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        name = column.removeprefix(">")
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        # Where it is too narrow, rich takes the room from columns that may wrap; their cells are cut instead, see _cut.
        table.add_column(name, justify=justify, no_wrap=name not in cut, overflow="fold")
    return table


def _cell(text: str, style: str = "") -> RenderableType:
    from rich.text import Text

    return Text(printable(text), style=style)


def _cut(text: str, style: str = "") -> RenderableType:
    """Make a cell that is cut short rather than wrapped."""
    from rich.text import Text

    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


def _share(share: float | None) -> RenderableType:
    if share is None:
        return ""
    return _cell(f"{share:.0%}", "red" if share > 0.95 else "yellow" if share > 0.8 else "")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


_UNITS: tuple[tuple[float, str, Callable[[float], str]], ...] = (
    (86_400, "d", lambda value: f"{value:.1f}"),
    (3_600, "h", lambda value: f"{value:.1f}"),
    (60, "m", lambda value: f"{value:.0f}"),
    (1, "s", lambda value: f"{value:.0f}" if value >= 10 else f"{value:.1f}"),
)


def _span(seconds: float) -> str:
    """Say a length of time in a few characters."""
    for unit, name, say in _UNITS:
        if seconds >= unit:
            return say(seconds / unit) + name
    return f"{seconds * 1000:.0f}ms"
