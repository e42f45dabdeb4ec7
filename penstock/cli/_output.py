"""What the commands print: JSON for programs, tables and live text for people."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import click

from penstock.cli._exits import INTERRUPTED, USAGE, fail, note
from penstock.cli._run import print_json
from penstock.cli._table import Column, Columns, about, ago, left, panel, printable, screen, table

if TYPE_CHECKING:
    from penstock.batch_models import Batch, BatchError, BatchWarning, File, RequestCounts
    from penstock.fleet_models import Worker
    from penstock.models import Health, Job, Model

T = TypeVar("T")

_ROOMY = 110
"""Columns from which a list of jobs shows everything."""


def live(text: str) -> None:
    """Print a piece of generated text at once."""
    click.echo(printable(text), nl=False)
    sys.stdout.flush()


@contextmanager
def writing(target: str | None, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Open what is written to: stdout, or a file that appears as a whole at the end or not at all.

    Raises:
        SystemExit: the file exists and ``overwrite`` is not set, or cannot be written; or Ctrl-C.
    """
    path = None if target in {None, "-"} else Path(str(target))
    if path is not None and path.exists() and not overwrite:
        fail(f"{path} already exists; --overwrite replaces it", USAGE)
    draft = path and path.with_name(path.name + ".part")
    try:
        with draft.open("wb") if draft else nullcontext(sys.stdout.buffer) as file:
            yield file
            file.flush()
            if draft and path:
                os.fsync(file.fileno())
                draft.replace(path)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        raise
    except OSError as exc:
        fail(f"cannot write: {exc}", USAGE)
    finally:
        if draft:
            draft.unlink(missing_ok=True)


def job_result(job: Job) -> None:
    """Print what a finished job produced: its text, or its whole result if that is not text."""
    if job.text:
        click.echo(printable(job.text))
    elif job.result is not None:
        print_json(job.result)


def summary(job: Job) -> str:
    """Return one line about a job's run: tokens, tokens per second, times in milliseconds."""
    times = job.timings
    parts = (
        job.state,
        f"{job.usage.prompt_tokens} + {job.usage.completion_tokens} tokens" if job.usage else None,
        None if times.tokens_per_s is None else f"{times.tokens_per_s:.1f} tok/s",
        None if times.queue_ms is None else f"queue {times.queue_ms:.0f} ms",
        None if times.total_ms is None else f"total {times.total_ms:.0f} ms",
        f"attempt {job.attempt}" if job.attempt > 1 else None,
        job.id,
    )
    return " · ".join(filter(None, parts))


def print_summary(job: Job) -> None:
    """Print :func:`summary` on stderr, where it does not mix with the output."""
    note(click.style(summary(job), dim=True))


def job_panel(job: Job) -> None:
    """Print a job as a panel of its fields, then its text if it has any."""
    whole = None if job.expires_at is None or job.created_at is None else job.expires_at - job.created_at
    limits = (("whole life", whole), ("to its start", job.queue_timeout_s), ("an attempt", job.timeout_s))
    run = summary(job).removesuffix(f" · {job.id}").removeprefix(f"{job.state} · ")
    soon = None if job.not_before is None else f"in {max(job.not_before - time.time(), 0):.0f} s"
    fields: list[tuple[str, str | None]] = [
        ("state", job.state),
        ("model", job.model),
        ("endpoint", job.endpoint),
        ("priority", job.priority),
        ("position", standing(job)),
        ("next attempt", soon),
        ("created", ago(job.created_at)),
        ("limits", ", ".join(f"{name} {value:g} s" for name, value in limits if value is not None)),
        ("attempt", f"{job.attempt} of {job.max_attempts}" if job.attempt else None),
        ("worker", job.worker),
        *((f"metadata {key}", value) for key, value in job.metadata.items()),
        ("summary", run if job.done else None),
        ("cancel", "requested" if job.cancel_requested and not job.done else None),
        ("error", f"{job.error.code}: {job.error.message}" if job.error else None),
        *(("warning", warning.message) for warning in job.warnings),
        ("runs as", job.coalesced_with),
        ("retry of", job.retry_of),
        ("retried as", job.retried_as),
        ("trace", job.trace_id),
        ("partial", job.partial_text),
    ]
    screen().print(panel(job.id, fields))
    if job.text:
        click.echo(printable(job.text))


def standing(job: Job) -> str:
    """Say how many jobs come before a queued one, and its estimated start; empty if that is not known."""
    if job.position is None:
        return ""
    place = "next" if job.position == 0 else f"{job.position} before it"
    return place if job.eta_s is None else f"{place}, starts in about {about(job.eta_s)}"


def jobs_table(jobs: Iterable[Job]) -> None:
    """Print jobs, a line each: their place if any waits, and how they went; fewer columns on a narrow terminal."""
    listed = list(jobs)
    waits = any(job.position is not None for job in listed)
    roomy = screen().width >= _ROOMY
    columns: Columns[Job] = [
        Column("id", lambda job: job.id),
        Column("state", lambda job: job.state),
        Column("model", lambda job: job.model, cut=True),
        Column("priority", lambda job: job.priority, cut=True) if roomy else None,
        Column("created", lambda job: ago(job.created_at)),
        Column("position", lambda job: _or_blank(job.position)) if waits else None,
        Column("eta", lambda job: "" if job.eta_s is None else about(job.eta_s)) if waits and roomy else None,
        Column("tokens", lambda job: str(job.usage.total_tokens) if job.usage else "")
        if roomy or not waits
        else None,
        Column("total ms", lambda job: _or_blank(job.timings.total_ms)) if roomy else None,
    ]
    _print(columns, listed, "no jobs")
    if listed and not roomy:
        note("A wider terminal, or --json, shows more of them.")


def dead_table(jobs: Iterable[Job]) -> None:
    """Print dead jobs, a line each, with as much of the reason as fits."""
    columns: Columns[Job] = [
        Column("id", lambda job: job.id),
        Column("code", lambda job: job.error.code if job.error else job.state),
        Column("model", lambda job: job.model, cut=True),
        Column("ended", lambda job: ago(job.timings.finished_at)),
        Column("message", lambda job: " ".join(job.error.message.split()) if job.error else "", cut=True),
    ]
    _print(columns, jobs, "no dead jobs")


def workers_table(workers: Iterable[Worker]) -> None:
    """Print workers, a line each; with their pools if there are several, their devices if they are known."""
    workers = tuple(workers)
    pools = len({worker.pool for worker in workers}) > 1
    devices = any(worker.device for worker in workers)
    columns: Columns[Worker] = [
        Column("name", lambda one: one.name),
        Column("state", lambda one: one.state),
        Column("running", lambda one: f"{one.active} of {one.capacity}" if one.capacity else str(one.active)),
        Column("waiting", lambda one: _or_blank(one.engine_waiting)),
        Column("kv", lambda one: "" if one.kv_cache_usage is None else f"{one.kv_cache_usage:.0%}"),
        Column("started", lambda one: ago(one.started_at)),
        Column("pool", lambda one: one.pool) if pools else None,
        Column("device", _device) if devices else None,
        Column("models", lambda one: " ".join(one.models), cut=True),
    ]
    _print(columns, workers, "no worker is alive")


def _device(worker: Worker) -> str:
    """Say what a worker runs on: ``2 x NVIDIA L4``."""
    times = f"{worker.devices} x " if (worker.devices or 1) > 1 else ""
    return f"{times}{worker.device}" if worker.device else ""


def models_table(models: Iterable[Model]) -> None:
    """Print the served models."""
    columns: Columns[Model] = [
        Column("model", lambda model: model.id),
        Column("context", lambda model: str(model.max_model_len or "")),
        Column("owned by", lambda model: model.owned_by or ""),
    ]
    _print(columns, models, "no model is served")


def health_lines(health: Health, url: str) -> None:
    """Print the state of the server and each of its checks."""
    click.echo(f"{url} is {click.style(health.status, fg='green' if health.ready else 'red')}")
    for name, state in health.checks.items():
        click.echo(f"  {name}: {printable(state)}")


def batch_panel(batch: Batch) -> None:
    """Print a batch as a panel of its fields."""
    counts, told, usage = batch.request_counts, batch.progress, batch.usage
    rates = (told.rows_per_s, told.tokens_per_s, told.eta_s) if told and not batch.done else None
    took = None if None in {batch.created_at, batch.ended_at} else batch.ended_at - batch.created_at  # type: ignore[operator]
    errors = batch.errors.data[:10] if batch.errors else ()
    fields: list[tuple[str, str | None]] = [
        ("status", batch.status),
        ("paused", (batch.pause_reason or "by request") if batch.paused else None),
        ("rows", rows_done(counts, rates)),
        ("model", batch.model),
        ("endpoint", batch.endpoint),
        ("priority", batch.priority),
        ("window", batch.completion_window),
        ("tokens", f"{usage.input_tokens:,} + {usage.output_tokens:,}" if usage else None),
        ("took", None if took is None else f"{took:,.0f} s"),
        ("input", batch.input_file_id),
        ("output", batch.output_file_id),
        ("failed rows", batch.error_file_id),
        ("retry of", batch.retry_of),
        ("retried as", batch.retried_as),
        *((f"metadata {key}", value) for key, value in (batch.metadata or {}).items()),
        *(("warning", f"{_at(one)}{one.message}") for one in batch.warnings),
        *(("error", f"{_at(one)}{one.code}: {one.message}") for one in errors),
    ]
    screen().print(panel(batch.id, fields))


def _at(found: BatchError | BatchWarning) -> str:
    return "" if found.line is None else f"line {found.line}: "


def rows_done(counts: RequestCounts, rates: tuple[float | None, float | None, float | None] | None) -> str:
    """Return a batch's figures in one line; the rates are rows/s, tokens/s and the seconds left."""
    rows_s, tokens_s, eta_s = rates or (None, None, None)
    parts = (
        f"{counts.done:,} of {counts.total:,} rows",
        f"{counts.failed:,} failed" if counts.failed else None,
        None if rows_s is None else f"{rows_s:,.1f} rows/s",
        None if tokens_s is None else f"{tokens_s:,.0f} tokens/s",
        None if eta_s is None or counts.done >= counts.total else f"{left(eta_s)} left",
    )
    return ", ".join(filter(None, parts))


def batches_table(batches: Iterable[Batch]) -> None:
    """Print batches, a line each."""
    columns: Columns[Batch] = [
        Column("id", lambda batch: batch.id),
        Column("status", lambda batch: "paused" if batch.paused and not batch.done else batch.status),
        Column("rows", lambda one: f"{one.request_counts.done:,} of {one.request_counts.total:,}"),
        Column("failed", lambda batch: f"{batch.request_counts.failed:,}"),
        Column("model", lambda batch: batch.model or "", cut=True),
    ]
    _print(columns, batches, "no batches")


def files_table(files: Iterable[File]) -> None:
    """Print files, a line each."""
    columns: Columns[File] = [
        Column("id", lambda file: file.id),
        Column("purpose", lambda file: file.purpose),
        Column("bytes", lambda file: f"{file.bytes:,}"),
        Column("created", lambda file: ago(file.created_at)),
        Column("name", lambda file: file.filename, cut=True),
    ]
    _print(columns, files, "no files")


def _print(columns: Columns[T], items: Iterable[T], empty: str) -> None:
    """Print a table; say ``empty`` on stderr if it has no items."""
    made = table(columns, items)
    if made.row_count:
        screen().print(made)
    else:
        note(empty)


def _or_blank(number: float | None) -> str:
    return "" if number is None else f"{number:.0f}"
