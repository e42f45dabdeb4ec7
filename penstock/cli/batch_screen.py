"""The progress of a bulk run: a bar on a terminal, otherwise a line now and then, or events for scripts."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Self

from penstock.bulk.run import Watcher
from penstock.cli._exits import note
from penstock.cli._output import rows_done
from penstock.cli._run import print_json

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from penstock.batch_models import Batch
    from penstock.errors import PenstockError, Retry

_LINE_EVERY_S = 10.0
_EVENT_EVERY_S = 1.0


class Screen(Watcher):
    """The progress of one run, on stderr; with ``events`` as JSON lines on stdout. Use it in a ``with``.

    Attributes:
        total: rows of the run; 0 until that is known.
    """

    def __init__(self, *, events: bool) -> None:
        self.events = events
        self.total = 0
        self._bar: Bar | None = None
        self._task: Any = None
        self._phase = ""
        self._said = 0.0
        self._told = ("", "")
        self._rate = _Rate()

    def __enter__(self) -> Self:
        """Take the terminal."""
        if sys.stderr.isatty() and not self.events:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True, highlight=False),
                transient=True,
                expand=True,
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, text: str, **fields: Any) -> None:
        """Say something once: a line, or with ``events`` the fields."""
        if self.events:
            if fields:
                print_json(fields)
        elif self._bar is not None:
            self._bar.console.print(text, soft_wrap=True, markup=False)
        else:
            note(text)

    def reading(self, rows: int, done: int, size: int | None) -> None:
        """Show how far the input has been read: rows, and bytes of ``size``."""
        self._show("reading", done, size, f"{rows:,} rows", {"event": "reading", "rows": rows})

    def uploading(self, sent: int, size: int) -> None:
        """Show how many bytes have been uploaded."""
        figures = f"{sent / 1e6:,.1f} of {size / 1e6:,.1f} MB"
        self._show("uploading", sent, size, figures, {"event": "uploading", "bytes": sent, "of": size})

    def starting(self, text: str) -> None:
        """Show what the embedded server is starting."""
        self._show("starting", None, None, text, {"event": "starting", "message": text})

    def writing(self, rows: int) -> None:
        """Show how many rows have been written."""
        self._show("writing", rows, self.total, f"{rows:,} rows", {"event": "writing", "rows": rows})

    def submitted(self, batch: Batch) -> None:
        """Say that the batch was created."""
        self.say(f"batch {batch.id}: {self.total:,} rows", event="submitted", batch=batch.id, rows=self.total)

    def progress(self, batch: Batch, received: int) -> None:
        """Show the batch's progress."""
        counts, told = batch.request_counts, batch.progress
        total = counts.total or self.total
        rows_s, tokens_s = self._rate.of(batch)
        rows_s = told.rows_per_s if told and told.rows_per_s is not None else rows_s
        tokens_s = told.tokens_per_s if told and told.tokens_per_s is not None else tokens_s
        eta_s = (
            told.eta_s
            if told and told.eta_s is not None
            else (total - counts.done) / rows_s
            if rows_s
            else None
        )
        figures = rows_done(counts.model_copy(update={"total": total}), (rows_s, tokens_s, eta_s))
        phase = "running" if batch.status == "in_progress" else batch.status
        if batch.paused:
            phase = f"paused ({batch.pause_reason or 'by request'})"
        event = {
            "event": "progress",
            "batch": batch.id,
            "status": batch.status,
            "total": total,
            "completed": counts.completed,
            "failed": counts.failed,
            "received": received,
            "rows_per_s": rows_s,
            "tokens_per_s": tokens_s,
            "eta_s": eta_s,
            "paused": batch.paused,
            "pause_reason": batch.pause_reason,
        }
        self._show(phase, counts.done, total, figures, event, last=batch.done and received >= total)

    def away(self, error: PenstockError, seconds: float) -> None:
        """Show that the server does not answer."""
        text = f"for {seconds:.0f} s already; trying again ({' '.join(str(error).split())[:80]})"
        event = {"event": "away", "seconds": round(seconds, 1), "error": str(error)}
        self._show("no answer", None, None, text, event)

    def retrying(self, retry: Retry) -> None:
        """Show that a request is tried again."""
        error = " ".join(str(retry.error).split())
        text = f"{error[:80]}; trying again ({retry.number} of {retry.max_retries})"
        self._show("no answer", None, None, text, {"event": "retry", "what": retry.what, "error": error})

    def _show(
        self,
        phase: str,
        done: int | None,
        total: int | None,
        figures: str,
        event: dict[str, Any],
        *,
        last: bool = False,
    ) -> None:
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(phase, total=total, figures=figures)
            self._bar.update(
                self._task, description=phase, total=total or None, completed=done or 0, figures=figures
            )
            return
        now = time.monotonic()
        gap_s = _EVENT_EVERY_S if self.events else _LINE_EVERY_S
        if (phase, figures) == self._told or (phase == self._phase and now - self._said < gap_s and not last):
            return
        self._told = (phase, figures) if last else ("", "")
        self._phase, self._said = phase, now
        if self.events:
            print_json(event)
        else:
            note(f"{phase}: {figures}")


class _Rate:
    """Rows and tokens per second as measured here, for a server that does not say."""

    def __init__(self) -> None:
        self._first: tuple[float, int, int] | None = None

    def of(self, batch: Batch) -> tuple[float | None, float | None]:
        rows, tokens = batch.request_counts.done, batch.usage.output_tokens if batch.usage else 0
        now = time.monotonic()
        if self._first is None:
            self._first = (now, rows, tokens)
        since, rows_then, tokens_then = self._first
        if now - since < 1 or rows == rows_then:
            return None, None
        return (rows - rows_then) / (now - since), (tokens - tokens_then) / (now - since)
