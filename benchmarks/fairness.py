"""Two tenants of weight 1 and 3, one of them flooding the lane: who gets which share of the engine, over time.

One ``penstock up`` with the simulated engine and API keys. *light* (weight 1) queues everything it has at once; later
*heavy* (weight 3) comes with enough to keep its share for a while; meanwhile a third tenant submits single jobs,
whose waits tell what a flood costs somebody else. What ran when is read from the engine's own journal. A plot goes to
docs/images/fairness.png. Then a tenant of few long jobs and one of many short ones, each with jobs waiting all the time:
their shares of the engine's tokens over a minute must be those of their weights.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import _fairness_tokens
import uvloop
from _client import Connection, drive, percentile
from _stack import ROOT, machine, penstock_up
from _tables import table, wrap

Base = tuple[str, int]
QUICK = ("--rate=40", "--alone=4", "--together=12", "--minute=10", "--no-plot")
TABLES = ("fairness", "fairness-tokens")
KEYS = {"light": "key-light", "heavy": "key-heavy", "single": "key-single"}
WEIGHTS = {"light": 1, "heavy": 3, "single": 1}
INPUT = {"model": "simulated", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


def auth(tenant: str) -> str:
    """Return the header of a tenant's calls."""
    return f"authorization: Bearer {KEYS[tenant]}\r\n"


async def submit(base: Base, tenant: str, count: int) -> list[str]:
    """Queue jobs; return their ids."""
    load = await drive(base, "/v1/jobs", [{"input": INPUT}] * count, 16, auth(tenant))
    return [json.loads(reply.body)["id"] for reply in load.replies]


async def single(base: Base, waits: list[float], owners: dict[str, str]) -> None:
    """Submit one job and note what it waited, in milliseconds."""
    link = Connection(*base)
    body = json.dumps({"input": INPUT}).encode()
    reply = await link.request("POST", "/v1/jobs?wait=60", body, auth("single"))
    link.close()
    job = json.loads(reply.body)
    owners[job["id"]] = "single"
    waits.append(job["timings"]["queue_ms"])


async def measure(base: Base, journal: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run the load and read the journal."""
    owners: dict[str, str] = {}
    seconds = args.alone + args.together
    flood = await submit(base, "light", round(args.rate * seconds * 1.1))
    owners |= dict.fromkeys(flood, "light")
    loop = asyncio.get_running_loop()
    await asyncio.sleep(args.alone)
    joined_ms = datetime.now(UTC).timestamp() * 1000
    mine = await submit(base, "heavy", round(args.rate * args.together * 0.75))
    owners |= dict.fromkeys(mine, "heavy")
    waits: list[float] = []
    end = loop.time() + args.together * 0.8
    while loop.time() < end:
        await single(base, waits, owners)
        await asyncio.sleep(0.5)
    link = Connection(*base)
    await link.request("DELETE", "/v1/queues/default/normal", headers=auth("light"))
    link.close()
    lines = (await asyncio.to_thread(journal.read_text)).splitlines()
    starts = [json.loads(line) for line in lines]
    points = [(row["time_ms"], owners[row["job"]]) for row in starts if row["event"] == "start"]
    return summary(points, joined_ms, waits, args)


def summary(
    points: list[tuple[float, str]], joined_ms: float, waits: list[float], args: argparse.Namespace
) -> dict[str, Any]:
    """Count starts per window and tenant. While both have jobs waiting, shares must be as the weights."""
    first = min(at for at, _ in points)
    of_heavy = [at for at, tenant in points if tenant == "heavy"]
    windows = []
    at = first
    while at < max(when for when, _ in points):
        part = [tenant for when, tenant in points if at <= when < at + args.window * 1000]
        both = at >= max(joined_ms, of_heavy[0]) and at + args.window * 1000 <= of_heavy[-1]
        counts = {tenant: part.count(tenant) for tenant in KEYS}
        windows.append({"at_s": round((at - first) / 1000, 1), **counts, "both": both})
        at += args.window * 1000
    shares = [
        w["heavy"] / (w["heavy"] + w["light"]) for w in windows if w["both"] and w["heavy"] + w["light"]
    ]
    if not shares:
        raise RuntimeError("the two tenants never had jobs waiting together: longer, please")
    return {
        "windows": windows,
        "share_of_heavy": {
            "expected": 0.75,
            "mean": round(sum(shares) / len(shares), 3),
            "worst_deviation": round(max(abs(share - 0.75) for share in shares), 3),
            "windows": len(shares),
        },
        "single_wait_ms": {"p50": percentile(waits, 0.5), "max": max(waits), "jobs": len(waits)},
    }


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw starts per second by tenant, one above the other."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    width = report["settings"]["window"]
    windows = report["windows"]
    at = [w["at_s"] for w in windows]
    figure, axes = plt.subplots(figsize=(8, 3.2), dpi=110)
    rates = [[w[tenant] / width for w in windows] for tenant in ("light", "heavy")]
    axes.stackplot(
        at,
        rates,
        labels=["light, weight 1 (flooding)", "heavy, weight 3"],
        colors=["#9ecae1", "#3182bd"],
        step="post",
    )
    axes.set_xlabel("seconds")
    axes.set_ylabel("jobs started per second")
    axes.legend(loc="lower right")
    axes.margins(x=0)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    share, wait, given = report["share_of_heavy"], report["single_wait_ms"], report["settings"]
    said = (
        f"{share['windows']} windows of {given['window']:g} s in which both tenants had jobs waiting. The third tenant"
        f" submitted {wait['jobs']} single jobs meanwhile."
    )
    rows = [
        ["share of the tenant of weight 3 against weight 1, mean", share["mean"], "0.75"],
        ["its worst deviation in a window", share["worst_deviation"], "<= 0.05"],
        [
            "queue wait of a third tenant's single job, p50 / max",
            f"{wait['p50']:g} / {wait['max']:g} ms",
            "one turn",
        ],
    ]
    found = {"fairness": f"{wrap(said)}\n\n{table(['', 'measured', 'bar'], rows)}"}
    if spells := report.get("tokens"):
        found["fairness-tokens"] = _tokens_table(spells, given["minute"])
    return found


def _tokens_table(spells: list[dict[str, Any]], seconds: float) -> str:
    (low, high), (few, many) = _fairness_tokens.SIZES["short"], _fairness_tokens.SIZES["long"]
    said = (
        f"One tenant's jobs make {few} to {many} tokens, the other's {low} to {high}; both have jobs waiting all the time."
        f" Shares of the tokens of {seconds:g} s, prompts included. Bar for turns in tokens: each share within 5 % of its"
        " weight's."
    )
    rows = [
        [
            one["turns"],
            f"{one['weights']['long']:g} : {one['weights']['short']:g}",
            f"{one['jobs']['long']:,} / {one['jobs']['short']:,}",
            f"{one['shares']['long']:.3f} / {one['shares']['short']:.3f}",
            f"{one['expected']['long']:.3f} / {one['expected']['short']:.3f}",
            f"{one['worst_deviation']:.1%}",
        ]
        for one in spells
    ]
    header = ["turns in", "weights, long : short", "jobs run", "shares of tokens", "by weight", "off by"]
    return f"{wrap(said)}\n\n{table(header, rows)}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=100.0, help="jobs per second that the engine can start")
    parser.add_argument("--alone", type=float, default=10.0, help="seconds of the flood alone")
    parser.add_argument("--together", type=float, default=40.0, help="seconds of both, about")
    parser.add_argument("--window", type=float, default=2.0, help="seconds of a point of the plot")
    parser.add_argument("--minute", type=float, default=60.0, help="seconds over which tokens are shared")
    parser.add_argument("--no-plot", action="store_true")
    args = parser.parse_args()
    slots = 8
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        journal = Path(folder) / "journal"
        env = {
            "PENSTOCK_API_KEYS": json.dumps(KEYS),
            "PENSTOCK_TENANTS": json.dumps({name: {"weight": weight} for name, weight in WEIGHTS.items()}),
            "PENSTOCK_SIMULATED_TTFT_S": str(slots / args.rate),
            "PENSTOCK_SIMULATED_JOURNAL": str(journal),
            "PENSTOCK_TASK_EVENTS": "false",
        }
        with penstock_up("--engine=simulated", f"--concurrency={slots}", **env) as base:
            report = uvloop.run(measure(base, journal, args))
    report["tokens"] = _fairness_tokens.spells(args.minute)
    facts = {"benchmark": "fairness", "date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine()}
    given = {k: v for k, v in vars(args).items() if k != "no_plot"}
    report = facts | {"settings": given} | report
    if not args.no_plot:
        plot(report, ROOT / "docs" / "images" / "fairness.png")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
