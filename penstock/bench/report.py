"""A run in words: the line while it runs, and the table at its end. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.bench.figures import Figures
from penstock.bench.histogram import QUANTILES, Histogram
from penstock.bench.plot import bars, line
from penstock.cli._table import span

_BUSY = 0.85
"""A client that used this part of a core may have been what limited the rate."""

_LATE_S = 0.02

_LONG = 0.1
"""Calls of this part of the measured time make the rates depend on its edges."""


def live_line(figures: Figures, now: float) -> str:
    """Say in one line how it goes."""
    if figures.since is None:
        return f"warming up · {figures.in_flight} in flight"
    failed = sum(figures.errors.values())
    middle, tail = figures.first.quantile(0.5), figures.first.quantile(0.99)
    parts = (
        span(figures.seconds(now)),
        f"{figures.good:,} done",
        f"{failed:,} failed" if failed else None,
        f"{figures.in_flight} in flight",
        f"{figures.rate(figures.done, now):,.1f} req/s",
        f"{figures.rate(figures.tokens, now):,.0f} tok/s" if figures.tokens else None,
        None if middle is None or tail is None else f"first token p50 {span(middle)}, p99 {span(tail)}",
    )
    return " · ".join(filter(None, parts))


def lines(figures: Figures, now: float, width: int) -> Iterator[str]:
    """Yield the report."""
    failed = sum(figures.errors.values())
    outcome = [f"{figures.good:,} succeeded", f"{failed:,} failed"]
    if figures.interrupted:
        outcome.append(f"{figures.interrupted:,} interrupted")
    if figures.unsent:
        outcome.append(f"{figures.unsent:,} not sent: --max-in-flight was reached")
    yield f"{span(figures.seconds(now))}: {', '.join(outcome)}"
    yield f"  requests/s       {figures.rate(figures.done, now):>12,.2f}"
    if figures.tokens:
        by = "" if figures.counted else "  (pieces of text: the server counts no tokens)"
        yield f"  output tokens/s  {figures.rate(figures.tokens, now):>12,.1f}{by}"
    if figures.prompt_tokens:
        yield f"  prompt tokens/s  {figures.rate(figures.prompt_tokens, now):>12,.1f}"
    yield ""
    heads = ["mean", *(f"p{share * 100:g}" for share in QUANTILES), "max"]
    yield f"{'':24}" + "".join(f"{head:>10}" for head in heads)
    for title, times in (
        ("time to first token", figures.first),
        ("inter-token time", figures.gap),
        ("time per output token", figures.per_token),
        ("end to end", figures.whole),
        *([("from when it was sent", figures.service)] if figures.late.count else []),
    ):
        if times.count:
            yield f"{title:24}" + "".join(f"{cell:>10}" for cell in _cells(times))
    if figures.errors:
        yield ""
        yield "errors"
        for code, count in figures.errors.most_common():
            yield f"  {count:>7,}  {code}: {' '.join(figures.examples[code].split())}"
    yield from _pictures(figures, now, width)
    for text in doubts(figures, now):
        yield ""
        yield text


def _cells(times: Histogram) -> Iterator[str]:
    yield _ms(times.total_s / times.count)
    for share in QUANTILES:
        yield _ms(times.quantile(share) or 0.0)
    yield _ms(times.most_s)


def _ms(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:,.2f} ms" if ms < 100 else f"{ms:,.0f} ms"


def _pictures(figures: Figures, now: float, width: int) -> Iterator[str]:
    times, title = (
        (figures.first, "time to first token") if figures.first.count else (figures.whole, "end to end")
    )
    if times.count > 1:
        yield ""
        yield from bars(title, times, width)
    names = ["calls", *(["errors"] if figures.errors else [])]
    pictures = [line(f"{name}/s".ljust(9), figures.series(name, now), width) for name in names]
    if any(pictures):
        yield ""
        yield from pictures


def doubts(figures: Figures, now: float) -> Iterator[str]:
    """Yield sentences that say what makes the figures less than they seem."""
    if (share := figures.cpu_share) is not None and share > _BUSY:
        yield f"This client used {share:.0%} of a core: the server may be able to do more than it could ask for."
    late = figures.late.quantile(0.99)
    if late is not None and late > _LATE_S:
        yield f"One call in a hundred was sent {span(late)} late or more: the client could not keep the rate."
    if figures.unsent:
        yield (
            f"{figures.unsent:,} calls were due and not sent: --max-in-flight was reached. They would have waited longest, "
            "and no percentile has them."
        )
    if figures.interrupted:
        yield f"{figures.interrupted:,} calls were given up while they ran: no percentile has them."
    mean = figures.whole.total_s / figures.whole.count if figures.whole.count else 0.0
    if mean > _LONG * figures.seconds(now):
        yield (
            f"A call took {span(mean)} on average, and {span(figures.seconds(now))} were measured: how the load began and "
            "ended shows in the rates. Measure for ten times as long as a call, or longer."
        )
