"""What keys, quotas, usage and audit cost, also with many tenants; and how a tenant fares beside one that floods.

Simulated engine, one stack or two, the client on the same cores. Each comparison is between two sides in one run, measured
in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import uvloop
from _client import drive, percentile
from _stack import cpu_s, machine, penstock_up, processes_of
from _tenants import BODY, QUOTAS, Base, Caller, Guarded, ask_as, bearer, drive_as, guarded_up
from _tenants_tables import tables

QUICK = (
    "--jobs=300",
    "--rounds=2",
    "--keys=2000",
    "--tenants=200",
    "--submissions=300",
    "--seconds=4",
    "--flood-rounds=1",
)
TABLES = ("tenants-cost", "tenants-many", "tenants-flood")

__all__ = ["QUICK", "TABLES", "tables"]

CHAT, SUBMIT, MODELS = "/v1/chat/completions", "/v1/jobs", "/v1/models"
_CALL = json.loads(BODY)
SUBMISSION = json.dumps({"input": _CALL}).encode()
WAYS = {
    "synchronous": (CHAT, _CALL),
    "streamed": (CHAT, _CALL | {"stream": True}),
    "jobs, wait": ("/v1/jobs?wait=60", {"input": _CALL}),
}
CLIENTS = 64

ENGINE = {"PENSTOCK_SIMULATED_TTFT_S": "0.03", "PENSTOCK_SIMULATED_INTER_TOKEN_S": "0.005"}
"""A call takes 110 ms."""

OWN_RATE, QUOTA_RATE, TIMES = 20.0, 10.0, 10.0
"""Calls a second: of the tenant within its quota; that the other's quota lets through, and how many times that it sends."""


def say(text: str) -> None:
    """Report progress."""
    print(f"tenants: {text}", file=sys.stderr, flush=True)


async def cost(off: Base, on: Guarded, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the throughput with everything on against that with all off."""
    key = await on.tenant("acme", **QUOTAS)
    sides: Mapping[str, tuple[Base, str]] = {"off": (off, ""), "on": (on.base, bearer(key))}
    stacks = {side: processes_of(base) for side, (base, _) in sides.items()}
    seen: dict[str, dict[str, list[float]]] = {way: {"off": [], "on": []} for way in WAYS}
    cpu: dict[str, dict[str, list[float]]] = {way: {"off": [], "on": []} for way in WAYS}
    for base, headers in sides.values():
        await drive(base, CHAT, [_CALL] * 300, CLIENTS, headers)
    for number in range(args.rounds):
        for place, (way, (path, body)) in enumerate(WAYS.items()):
            order = ("off", "on") if (number + place) % 2 else ("on", "off")
            for side in order:
                base, headers = sides[side]
                before = cpu_s(stacks[side])
                load = await drive(base, path, [body] * args.jobs, CLIENTS, headers)
                seen[way][side].append(load.rate)
                cpu[way][side].append((cpu_s(stacks[side]) - before) / args.jobs * 1000)
        say(f"cost: round {number + 1} of {args.rounds}")
    return [
        {
            "way": way,
            "off_per_s": round(statistics.median(rates["off"]), 1),
            "on_per_s": round(statistics.median(rates["on"]), 1),
            "ratios": [round(on / off, 3) for on, off in zip(rates["on"], rates["off"], strict=True)],
            "off_cpu_ms": round(statistics.median(cpu[way]["off"]), 3),
            "on_cpu_ms": round(statistics.median(cpu[way]["on"]), 3),
        }
        for way, rates in seen.items()
    ]


async def full_against_empty(empty: Guarded, full: Guarded, args: argparse.Namespace) -> dict[str, Any]:
    """Measure accept on a server with many tenants and keys against one that has a single one."""
    known, sizes = await full.fill(args.tenants, args.keys)
    say(f"{args.tenants:,} tenants and {args.keys:,} keys are made")
    only = await empty.tenant("acme", **QUOTAS)
    rss = {side: _memory(stack) for side, stack in (("empty", empty), ("full", full))}
    draw = random.Random(16)
    hot = draw.sample(known, min(1000, len(known)))
    seen: dict[str, dict[str, list[tuple[float, float]]]] = {}
    await drive_as(empty.base, SUBMIT, SUBMISSION, [only] * len(hot), 1)
    await drive_as(full.base, SUBMIT, SUBMISSION, hot, 1)  # from here on the api knows them
    unused = draw.sample(sorted(set(known) - set(hot)), args.accept_rounds * args.submissions)

    async def one_round(given: Mapping[str, list[str]], number: int) -> None:
        for way, keys in given.items():
            found = seen.setdefault(way, {"empty": [], "full": []})
            for side in ("empty", "full") if number % 2 else ("full", "empty"):
                stack, some = (full, keys) if side == "full" else (empty, [only] * len(keys))
                found[side].append(await stack.accept(SUBMIT, SUBMISSION, some))

    for number in range(args.accept_rounds):
        given = {
            "the same key": [hot[0]] * args.submissions,
            f"{len(hot):,} keys that the api knows": draw.choices(hot, k=args.submissions),
            "keys at their first use": [unused.pop() for _ in range(args.submissions)],
        }
        await one_round(given, number)
        say(f"many: round {number + 1} of {args.accept_rounds}")
    await ask_as(full.base, MODELS, known, CLIENTS)
    say("every key was used")
    for number in range(args.accept_rounds):
        await one_round({f"any of {len(known):,} keys": draw.choices(known, k=args.submissions)}, number)
    grown = (_memory(full) - rss["full"]) - (_memory(empty) - rss["empty"])
    return {
        "tenants": args.tenants,
        "keys": args.keys,
        "bytes_of_a_tenant": round(sizes["tenant"]),
        "bytes_of_a_key": round(sizes["key"]),
        "api_grew_mb": round(grown / 1e6, 1),
        "accept": [{"way": way, **_accept_row(sides)} for way, sides in seen.items()],
    }


def _accept_row(sides: Mapping[str, list[tuple[float, float]]]) -> dict[str, Any]:
    def middle(side: str, place: int) -> float:
        return round(statistics.median(one[place] for one in sides[side]), 3)

    pairs = zip(sides["full"], sides["empty"], strict=True)
    return {
        "empty_ms": middle("empty", 0),
        "full_ms": middle("full", 0),
        "empty_us": middle("empty", 1),
        "full_us": middle("full", 1),
        "ratios": [round(full[0] / empty[0], 3) for full, empty in pairs],
    }


def _memory(stack: Guarded) -> int:
    """Return the resident memory of a stack's api."""
    (api,) = [one for one in processes_of(stack.base)[1:] if "api" in one.cmdline()]
    return int(api.memory_info().rss)


async def spend(base: Base, key: str) -> None:
    """Use up what a quota lets through at once: a tenant that was idle has a minute's worth."""
    caller = Caller(base, key)
    while not caller.refused:
        await caller.call_for(0.5, 2 * QUOTA_RATE * TIMES)
    caller.close()


async def flood(stack: Guarded, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a tenant within its quota alone, and beside one that sends ten times its own."""
    own = await stack.tenant("quiet", requests_per_minute=round(OWN_RATE * 60 * 1.5))
    other = await stack.tenant("flooder", requests_per_minute=round(QUOTA_RATE * 60))
    served: dict[str, list[float]] = {"alone": [], "beside": []}
    refused: list[float] = []
    others: dict[int, int] = {}
    passed = 0
    for number in range(args.flood_rounds):
        for side in ("alone", "beside") if number % 2 else ("beside", "alone"):
            quiet, flooder = Caller(stack.base, own), Caller(stack.base, other)
            if side == "beside":
                await spend(stack.base, other)
            tasks: list[Coroutine[Any, Any, None]] = [quiet.call_for(args.seconds, OWN_RATE)]
            if side == "beside":
                tasks.append(flooder.call_for(args.seconds, QUOTA_RATE * TIMES))
            await asyncio.gather(*tasks)
            served[side] += quiet.served
            refused += flooder.refused
            passed += len(flooder.served)
            others |= quiet.others | flooder.others | ({429: len(quiet.refused)} if quiet.refused else {})
            quiet.close()
            flooder.close()
        say(f"flood: round {number + 1} of {args.flood_rounds}")
    return {
        "own_per_s": OWN_RATE,
        "offered_per_s": QUOTA_RATE * TIMES,
        "calls": {side: len(found) for side, found in served.items()},
        **{
            side: {"p50": round(percentile(ms, 0.5), 1), "p99": round(percentile(ms, 0.99), 1)}
            for side, ms in served.items()
        },
        "refused": len(refused),
        "passed": passed,
        "refused_ms": {"p50": round(percentile(refused, 0.5), 1), "p99": round(percentile(refused, 0.99), 1)},
        "others": others,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--jobs", type=int, default=2000, help="per way, side and round (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="of each way and side (default %(default)s)")
    parser.add_argument("--tenants", type=int, default=10_000, help="(default %(default)s)")
    parser.add_argument("--keys", type=int, default=100_000, help="(default %(default)s)")
    parser.add_argument("--submissions", type=int, default=500, help="a round (default %(default)s)")
    parser.add_argument("--accept-rounds", type=int, default=7, help="(default %(default)s)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of a round of the flood")
    parser.add_argument("--flood-rounds", type=int, default=4, help="(default %(default)s)")
    parser.add_argument("--only", choices=("cost", "many", "flood"), help="this part alone")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "benchmark": "tenants",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "jobs": args.jobs,
        "clients": CLIENTS,
    }
    if args.only in {None, "cost"}:
        with ExitStack() as up:
            off = up.enter_context(penstock_up("--engine=simulated", PENSTOCK_USAGE_ROWS_MAX="0"))
            report["cost"] = uvloop.run(cost(off, up.enter_context(guarded_up()), args))
    if args.only in {None, "many"}:
        with ExitStack() as up:
            empty, full = (up.enter_context(guarded_up()) for _ in range(2))
            report["many"] = uvloop.run(full_against_empty(empty, full, args))
    if args.only in {None, "flood"}:
        with guarded_up(**ENGINE) as stack:
            report["flood"] = uvloop.run(flood(stack, args))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
