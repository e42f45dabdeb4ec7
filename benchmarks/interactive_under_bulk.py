"""What interactive users notice of a saturating bulk load, and what that costs the bulk load.

One ``penstock up`` on the paced engine: vLLM's own front, core and scheduler, and a GPU's cost model in the model's place.
Interactive calls are streamed chats that arrive at random (Poisson); the same calls come at the same times alone and beside
bulk. Bulk is asynchronous jobs in the lane ``bulk``, topped up all the time, of three kinds: equal lengths, mixed lengths,
long prompts. The client runs on the same cores.

Bulk's net share is ``beside / (alone x (1 - share))``, where ``share`` is the part of the device's time that the calls' own
tokens need: ``(c x prompt tokens + b x (completion tokens - 1)) / wall``, by the cost model ``a + b x decodes + c x prompt
tokens`` of a step. The fixed ``a`` is not the calls': they ride in steps that bulk makes anyway.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import _bulk_tables
import uvloop
from _bulk_load import KINDS
from _calls import Arrivals
from _paced import SLOTS, options, served
from _spells import Plan, Served, on_stack, say
from _stack import ROOT, machine
from _timeline import plot, series

from workers.engines.vllm.step_cost import parse

QUICK = ("--calls=30", "--rates=15", "--kinds=lognormal", "--bulk-s=4", "--ablate-calls=0", "--fifo-calls=1")
TABLES = _bulk_tables.TABLES
tables = _bulk_tables.tables

SETTINGS = {"lane_scheduler": "PENSTOCK_LANE_SCHEDULER", "just_in_time": "PENSTOCK_JUST_IN_TIME"}
PATCHED = ("held_outputs", "render_order", "bulk_turns", "bulk_pace")
MEANS = (*SETTINGS, *PATCHED)
"""What can be taken away: by a setting, or by a change to the running processes (``_without``)."""

PICTURE = ROOT / "docs" / "images" / "bulk-without-being-felt.png"

LLM_D = {"burst": Arrivals(15.0, 1000, words=384, tokens=128, burst_s=45.0, idle_s=15.0)}
"""As llm-d measured its batch gateway: bursts of 15 calls a second, 512 tokens in, 128 out."""


def loads(args: argparse.Namespace, calls: int, rates: Sequence[float]) -> dict[str, Arrivals]:
    """Return the calls of the main table, by name."""
    return {f"{rate:g}/s": Arrivals(rate, calls, args.words, args.tokens) for rate in rates}


def stack_of(args: argparse.Namespace) -> Served:
    """Return the flags of the stack, and its pace."""
    flags = options(args.pace, args.slots) + [f"--engine-arg={flag}" for flag in args.engine_arg]
    return Served(flags, served(args.pace), parse(args.pace), args.slots)


def measure(args: argparse.Namespace, plan: Plan, env: dict[str, str], fifo_calls: int = 0) -> dict[str, Any]:
    """Repeat the measurement ``args.repeat`` times, each on a stack of its own; return the medians."""
    stack = stack_of(args)
    found: dict[str, Any] = median(
        [uvloop.run(on_stack(stack, plan, env, fifo_calls)) for _ in range(args.repeat)]
    )
    return found


def median(reports: list[Any]) -> Any:
    """Return a report whose every number is the median of the reports' numbers."""
    first = reports[0]
    if isinstance(first, dict):
        return {key: median([one[key] for one in reports if key in one]) for key in first}
    if isinstance(first, int | float):
        return statistics.median(reports)
    return first


def without(names: Sequence[str]) -> dict[str, str]:
    """Return the environment without some of the means."""
    env = {SETTINGS[name]: "false" for name in names if name in SETTINGS}
    patched = [name for name in names if name in PATCHED]
    if patched:
        shim = Path(__file__).parent / "_without"
        env |= {"BENCHMARK_WITHOUT": ",".join(patched), "PYTHONPATH": str(shim)}
    return env


def environment(args: argparse.Namespace) -> dict[str, str]:
    """Return the settings that the options ask for."""
    env = dict(pair.split("=", 1) for pair in args.env) | without(args.without)
    if args.slo_ms is not None:
        env["PENSTOCK_INTERACTIVE_SLO_MS"] = str(args.slo_ms)
    return env


def ablations(args: argparse.Namespace, env: dict[str, str]) -> dict[str, Any]:
    """Measure without each of the means in turn, and with an SLO. Bulk alone is measured once, with all of them."""
    variants = {f"without {name}": env | without([*args.without, name]) for name in args.ablate}
    variants |= {f"SLO {ms:g} ms": env | {"PENSTOCK_INTERACTIVE_SLO_MS": str(ms)} for ms in args.slo_table}
    plan = Plan(
        loads(args, args.ablate_calls, args.rates[-1:]), args.ablate_kinds, args.bulk_s, seed=args.seed
    )
    found = {"all": measure(args, plan, env)}
    for name, changed in variants.items():
        say(name)
        found[name] = measure(args, replace(plan, bulk_s=0.0), changed)
    return found


def report(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all that the options ask for."""
    env = environment(args)
    plan = Plan(loads(args, args.calls, args.rates), args.kinds, args.bulk_s, seed=args.seed)
    found: dict[str, Any] = {
        "benchmark": "interactive_under_bulk",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "settings": vars(args)
        | {"plot": str(args.plot), "loads": {name: asdict(one) for name, one in plan.loads.items()}},
    }
    if args.calls:
        found["main"] = measure(args, plan, env, args.fifo_calls)
    if args.ablate_calls:
        found["means"] = ablations(args, env)
    if args.llm_d_calls:
        arrivals = {
            name: Arrivals(**asdict(one) | {"calls": args.llm_d_calls}) for name, one in LLM_D.items()
        }
        found["llm_d"] = measure(args, Plan(arrivals, ("lognormal",), args.bulk_s, seed=args.seed), env)
    if args.timeline_s:
        found["timeline"] = uvloop.run(series(stack_of(args), env, ["equal", "lognormal"], args.timeline_s))
        plot(found["timeline"], args.plot)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pace", default="H100-8B", help="name, or three numbers in ms: a,b,c (default %(default)s)")
    add("--slots", type=int, default=SLOTS, help="requests at once (default %(default)s)")
    add("--calls", type=int, default=1000, help="of each spell; 0: no main table (default %(default)s)")
    add("--rates", type=float, nargs="+", default=[4.0, 15.0], help="calls per second (default 4 15)")
    add("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="of bulk (default: all)")
    add("--words", type=int, default=300, help="of a call's prompt (default %(default)s)")
    add("--tokens", type=int, default=24, help="of a call's answer (default %(default)s)")
    add("--bulk-s", type=float, default=30.0, help="of bulk alone; 0: not (default %(default)s)")
    add(
        "--without",
        action="append",
        choices=MEANS,
        default=[],
        help="turn one of the means off, repeatable",
    )
    add("--slo-ms", type=float, help="PENSTOCK_INTERACTIVE_SLO_MS")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="one more setting, repeatable")
    add("--engine-arg", action="append", default=[], help="one more flag of vLLM's, repeatable")
    add("--ablate-calls", type=int, default=400, help="calls without each of the means; 0: not (default 400)")
    add("--ablate", nargs="*", choices=MEANS, default=list(MEANS), help="which of them (default: all)")
    add("--ablate-kinds", nargs="+", choices=list(KINDS), default=["equal", "lognormal"])
    add("--slo-table", type=float, nargs="*", default=[], metavar="MS", help="SLOs beside the means")
    add("--llm-d-calls", type=int, default=0, help="calls of llm-d's scenario; 0: not (default %(default)s)")
    add("--timeline-s", type=float, default=0.0, help="seconds of each phase of the picture; 0: none")
    add("--plot", type=Path, default=PICTURE, help="where the picture goes (default %(default)s)")
    add("--fifo-calls", type=int, default=3, help="calls in one queue behind bulk (default %(default)s)")
    add("--repeat", type=int, default=1, help="runs, of which the medians are shown (default %(default)s)")
    add("--seed", type=int, default=7)
    print(json.dumps(report(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
