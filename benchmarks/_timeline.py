"""The time to first token while bulk comes and goes: a series, and its picture."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from _bulk_load import KINDS, bulk
from _calls import Arrivals, Base, Caller
from _client import percentile
from _spells import WARM_CALLS, Served, generated, say
from _stack import penstock_up

RATE = 15.0
LOOK_EVERY_S = 1.0
WINDOW_S = 4.0
"""Width of the window whose percentiles the picture shows."""


async def series(served: Served, env: dict[str, str], kinds: list[str], phase_s: float) -> dict[str, Any]:
    """Call all the time, and let each kind of bulk come for a phase, with a phase of calls alone around it.

    Returns:
        ``calls``: second and TTFT in ms of each; ``bulk``: second and tokens per second, those of calls not counted;
        ``phases``: kind, first and last second.
    """
    total_s = (2 * len(kinds) + 1) * phase_s
    say(f"timeline: {total_s:.0f} s")
    with penstock_up(*served.options, **env) as base:
        caller, loop = Caller(base, served.name), asyncio.get_running_loop()
        await caller.make(Arrivals(10.0, WARM_CALLS, tokens=16), seed=1)
        await asyncio.sleep(3)
        arrivals = Arrivals(RATE, int(RATE * total_s))
        began, phases = loop.time(), []
        calls = asyncio.create_task(caller.make(arrivals, seed=7))
        look = asyncio.create_task(_rates(base, began, arrivals.tokens * RATE))
        for kind in kinds:
            await asyncio.sleep(began + (2 * len(phases) + 1) * phase_s - loop.time())
            first = loop.time() - began
            async with bulk(base, served.name, KINDS[kind], 7, phase_s, rest_s=0):
                phases.append(
                    {"kind": kind, "first_s": round(first, 1), "last_s": round(loop.time() - began, 1)}
                )
        made = await calls
        look.cancel()
        seen = (await asyncio.gather(look, return_exceptions=True))[0]
    return {
        "calls": [[round(one.at_s, 2), round(one.ttft_ms, 1)] for one in made],
        "bulk": seen if isinstance(seen, list) else [],
        "phases": phases,
    }


async def _rates(base: Base, began: float, calls_per_s: float) -> list[list[float]]:
    """Look how many tokens the engine makes until cancelled; the calls' own share is taken off."""
    loop, found = asyncio.get_running_loop(), []
    tokens, at = await generated(base), loop.time()
    try:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now, then = await generated(base), loop.time()
            rate = (now - tokens) / (then - at) - calls_per_s
            found.append([round(at - began, 1), round(max(rate, 0.0))])
            tokens, at = now, then
    except asyncio.CancelledError:
        return found


def rolling(calls: list[list[float]], share: float) -> tuple[list[float], list[float]]:
    """Return seconds, and the percentile of the calls around each."""
    last, at, values = calls[-1][0], [], []
    second = 0.0
    while second <= last:
        near = [ttft for when, ttft in calls if abs(when - second) <= WINDOW_S / 2]
        if near:
            at.append(second)
            values.append(percentile(near, share))
        second += 0.5
    return at, values


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw the calls' times above, and bulk's tokens below."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(9, 4.6), dpi=110, sharex=True, height_ratios=(3, 1.3), layout="constrained"
    )
    above.scatter(*zip(*found["calls"], strict=True), s=4, color="#9e9ac8", alpha=0.5, label="one call")
    above.plot(*rolling(found["calls"], 0.5), color="#3f007d", label=f"median of {WINDOW_S:g} s")
    above.plot(*rolling(found["calls"], 0.95), color="#3f007d", lw=0.8, ls="--", label="95th percentile")
    above.set_ylabel("time to first token, ms")
    above.set_ylim(0, 2.2 * percentile([ttft for _, ttft in found["calls"]], 0.95))
    above.legend(loc="upper right", ncols=3, fontsize="small")
    below.fill_between(*zip(*found["bulk"], strict=True), step="post", color="#fdae6b")
    below.set_ylabel("bulk, tokens/s")
    below.set_ylim(0, None)
    below.set_xlabel("seconds")
    for phase in found["phases"]:
        for axes in (above, below):
            axes.axvspan(phase["first_s"], phase["last_s"], color="#fdae6b", alpha=0.15, lw=0)
        above.text(phase["first_s"] + 0.5, 2, f"bulk: {phase['kind']}", fontsize="small", va="bottom")
    above.margins(x=0)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)
