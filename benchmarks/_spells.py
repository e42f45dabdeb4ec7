"""Spells of load on one running stack: calls alone, bulk alone, and both."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from _bulk_load import KINDS, UNTRACED, Feeder, ask, bulk, clear
from _calls import Arrivals, Base, Caller, chat, seen
from _client import drive, percentile
from _paced import device_share
from _stack import penstock_up
from _stages import SENT_WITHIN_S, Collector, by_stage

from workers.engines.vllm.lane_policy import RECENT_S
from workers.engines.vllm.step_cost import StepCost

WARM_CALLS = 30
_GENERATED = re.compile(r"^penstock_engine_generated_tokens_total (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured on one stack.

    Attributes:
        loads: the calls, by the name of the load.
        kinds: names of :data:`_bulk_load.KINDS`.
        bulk_s: seconds over which bulk alone is measured; 0: it is not.
        settle_s: at least so long from the first bulk job to the measurement. Jobs that start together end together, and it
            takes a while until they come evenly.
        seed: of everything random.
    """

    loads: dict[str, Arrivals]
    kinds: Sequence[str]
    bulk_s: float = 30.0
    settle_s: float = 20.0
    seed: int = 7

    def settled_s(self) -> float:
        """Return the seconds from the first bulk job to the measurement.

        Bulk is alone when no call is likely any more: until then the lane scheduler keeps its steps short.
        """
        return max(self.settle_s, RECENT_S + 1) if self.bulk_s else self.settle_s

    def seconds(self) -> float:
        """Return about how long it takes, the stack being up."""
        once = sum(one.seconds() + 3 for one in self.loads.values())
        return 6 + once + len(self.kinds) * (self.settled_s() + self.bulk_s + once + 12)


@dataclass(frozen=True, slots=True)
class Served:
    """What a stack serves.

    Attributes:
        options: of ``penstock up``.
        name: of the model.
        cost: of a step of its engine; None: unknown, so nothing is net of the calls' own tokens.
        slots: requests at once.
    """

    options: Sequence[str]
    name: str
    cost: StepCost | None
    slots: int


def say(text: str) -> None:
    """Report progress."""
    print(f"interactive_under_bulk: {text}", file=sys.stderr, flush=True)


async def generated(base: Base) -> float:
    """Return how many tokens the workers' engines have made since they started, as each step made them."""

    def read(url: str) -> float:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return sum(map(float, _GENERATED.findall(answer.read().decode())))

    urls = [worker["metrics_url"] for worker in (await ask(base, "/v1/workers"))["data"]]
    return sum([await asyncio.to_thread(read, url) for url in urls])


class Spells:
    """Runs them.

    Args:
        base: the stack's host and port.
        model: what it serves.
        traces: where the stack sends its spans.
        cost: the engine's cost model; None: unknown, so nothing is net of the calls' own tokens.
    """

    def __init__(self, base: Base, model: str, traces: Collector, cost: StepCost | None) -> None:
        self._base, self._model, self._traces, self._cost = base, model, traces, cost
        self._caller = Caller(base, model)

    async def run(self, plan: Plan) -> dict[str, Any]:
        """Run a plan's spells; returns ``{"alone": {load: row}, "bulk": {kind: {...}}}``."""
        say(f"about {plan.seconds():.0f} s on this stack")
        await self._caller.make(Arrivals(10.0, WARM_CALLS, tokens=16), seed=1)
        alone = {}
        for name, arrivals in plan.loads.items():
            await asyncio.sleep(3)
            alone[name] = await self._calls(name, arrivals, plan.seed)
        return {
            "alone": alone,
            "bulk": {kind: await self._with_bulk(kind, plan, alone) for kind in plan.kinds},
        }

    async def _calls(self, name: str, arrivals: Arrivals, seed: int) -> dict[str, Any]:
        """One spell; ``others_per_s``: tokens of all but the calls."""
        loop = asyncio.get_running_loop()
        tokens, began = await generated(self._base), loop.time()
        made = await self._caller.make(arrivals, seed)
        wall_s = loop.time() - began
        tokens = await generated(self._base) - tokens - sum(one.completion for one in made)
        others = tokens / (loop.time() - began)
        await asyncio.sleep(SENT_WITHIN_S)
        row = seen(made) | {"stages_ms": by_stage(made, self._traces.take())}
        row |= {"seconds": round(wall_s, 1), "others_per_s": round(others, 1)}
        if self._cost is not None:
            row["device_share"] = round(device_share(self._cost, made, wall_s), 4)
        say(f"{name}: {row}")
        return row

    async def _with_bulk(self, kind: str, plan: Plan, alone: dict[str, Any]) -> dict[str, Any]:
        spell: dict[str, Any] = {"beside": {}}
        rate = None
        async with bulk(self._base, self._model, KINDS[kind], plan.seed, plan.settled_s()) as feeder:
            if plan.bulk_s:
                rate = await self._bulk_alone(plan.bulk_s)
                spell["tokens_per_s"] = round(rate, 1)
                say(f"bulk {kind} alone: {rate:.0f} tokens/s")
            for name, arrivals in plan.loads.items():
                row = await self._calls(f"{name} beside {kind}", arrivals, plan.seed)
                spell["beside"][name] = row | against(row, alone[name], rate)
        return spell | {"queued_least": feeder.least}

    async def _bulk_alone(self, seconds: float) -> float:
        """Return tokens per second."""
        loop = asyncio.get_running_loop()
        tokens, began = await generated(self._base), loop.time()
        await asyncio.sleep(seconds)
        return (await generated(self._base) - tokens) / (loop.time() - began)

    async def fifo(self, slots: int, calls: int) -> dict[str, Any]:
        """What one queue would do: jobs of one lane and tenant, a short one behind four times as many as fill the slots."""
        waits = []
        for n in range(calls):
            ahead = Feeder(self._base, self._model, KINDS["equal"], 1000 + n, lane="normal")
            await ahead.fill(4 * slots)
            body = json.dumps({"input": chat(self._model, f"Question {n}", 24, stream=True)}).encode()
            reply = (await drive(self._base, "/v1/jobs?wait=300", [body], 1, UNTRACED)).replies[0]
            timings = json.loads(reply.body)["timings"]
            waits.append((timings["first_token_at"] - timings["queued_at"]) * 1000)
        await clear(self._base, "normal")
        return {"calls": calls, "ttft_ms": {"p50": round(percentile(waits, 0.5)), "most": round(max(waits))}}


def against(row: dict[str, Any], alone: dict[str, Any], rate: float | None) -> dict[str, Any]:
    """Compare calls beside bulk with calls alone, and bulk beside calls with bulk alone.

    ``bulk_net`` is ``beside / (alone x (1 - device_share))``: what bulk keeps of what the calls' own tokens leave to it.

    Args:
        rate: tokens per second of bulk alone; None: not measured.
    """
    ratio = {q: round(row["ttft_ms"][q] / alone["ttft_ms"][q], 3) for q in ("p50", "p95", "p99")}
    found: dict[str, Any] = {"ratio": ratio}
    if rate is not None:
        kept = row["others_per_s"] / rate
        found["bulk_kept"] = round(kept, 3)
        if "device_share" in row:
            found["bulk_net"] = round(kept / (1 - row["device_share"]), 3)
    return found


async def on_stack(served: Served, plan: Plan, env: dict[str, str], fifo_calls: int = 0) -> dict[str, Any]:
    """Start a stack with this environment, and run a plan on it; ``fifo_calls``: see :meth:`Spells.fifo`."""
    traces = Collector()
    with penstock_up(*served.options, timeout_s=400, **traces.env() | env) as base:
        async with traces:
            spells = Spells(base, served.name, traces, served.cost)
            found = await spells.run(plan)
            if fifo_calls:
                found["fifo"] = await spells.fifo(served.slots, fifo_calls)
            return found
