"""Random faults under mixed load, for as long as wished: ``make chaos SEED=1 MINUTES=30 ENGINE=simulated``.

    python -m tests.chaos.run --seed 1 --minutes 30 [--engine vllm] [--round N] [--out DIR]

The run goes in rounds. Each has its own seed, made of the run's and its number, from which its faults, failpoints and
clients are drawn: ``--round N`` does that round alone. (What the processes make of it in time is theirs.)

A summary is printed and written as ``summary.json`` to the folder that is named at the start, with every process's log, the
journal of what the engines ran, and ``events.jsonl``, what was done to whom and when. Exit status 1: a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos.checker import Takeover
from tests.chaos.faults import SHARES, Fault, drawn_failpoint, kill_engine
from tests.chaos.round import Round
from tests.chaos.stack import Stack
from tests.chaos.webhooks import Hooked

ROUND_S = {"simulated": 40.0, "vllm": 90.0}
PAUSE_S = {"simulated": (0.5, 4.0), "vllm": (8.0, 20.0)}
LOAD: dict[str, dict[str, Any]] = {
    "simulated": {"clients": 12},
    "vllm": {"clients": 4, "pause_s": 2.0, "tokens": (3, 15), "long_tokens": 120},
}
# A stall of a minute is in the design's list; drawn seldom, since nothing else happens meanwhile.
STALLS_S = (1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 10.0, 10.0, 30.0, 70.0)
TELL_EVERY_S = 30.0


class Chaos:
    """A run.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._folder = options.out or Path(tempfile.mkdtemp(prefix="penstock-chaos-"))
        self._counts: Counter[str] = Counter()
        self._takeovers: list[Takeover] = []
        self._violations: list[dict[str, Any]] = []
        self._rounds = 0
        self._began = time.monotonic()
        self._current: Round | None = None
        self._broken_down = False

    async def run(self) -> int:
        """Run to the end of time. Returns the exit status."""
        options = self._options
        print(
            f"chaos: seed {options.seed}, {options.minutes:g} minutes, engine {options.engine}, in {self._folder}",
            flush=True,
        )
        lives: list[Any] = []
        try:
            async with Stack(self._folder, engine=options.engine, workers=options.workers) as stack:
                teller = asyncio.create_task(self._tell(), name="teller")
                try:
                    numbers = [options.round] if options.round else range(1, 1_000_000)
                    for number in numbers:
                        await self._round(stack, number)
                        if self._broken_down or self._elapsed_s() > options.minutes * 60:
                            break
                finally:
                    teller.cancel()
                    lives = [copy.copy(life) for life in stack.lives]  # before all are killed at the end
        finally:
            summary = self._summary(lives)
            (self._folder / "summary.json").write_text(json.dumps(summary, indent=1, default=str) + "\n")
        print(json.dumps({k: v for k, v in summary.items() if k != "violations"}, indent=1))
        if self._violations:
            print(f"\n{len(self._violations)} BROKEN PROMISES; all of them, with logs, in {self._folder}")
            for one in self._violations[:5]:
                print(json.dumps(one, indent=1, default=str)[:2000])
            return 1
        print(f"\nevery promise was kept; logs in {self._folder}")
        return 0

    async def _round(self, stack: Stack, number: int) -> None:
        options, engine = self._options, self._options.engine
        seed = f"{options.seed}/{engine}/{number}"
        rng = random.Random(f"{seed}/schedule")
        draws = random.Random(f"{seed}/failpoints")
        shares: dict[Fault, int] = SHARES | ({kill_engine: 4} if engine == "vllm" else {})

        def draw(child: Any) -> str:
            if draws.random() < 0.5 or child in stack.coordinators:
                return ""
            return drawn_failpoint(draws, worker=child in stack.workers, lease_ttl_s=stack.lease_ttl_s)

        done = self._current = Round(stack, seed, patience_s=120.0, stalls_s=STALLS_S, **LOAD[engine])
        try:
            async with Hooked(stack) as hooked:
                async with done:
                    stack.draw = draw
                    ends_at = time.monotonic() + ROUND_S[engine]
                    while time.monotonic() < ends_at:
                        await asyncio.sleep(rng.uniform(*PAUSE_S[engine]))
                        fault = rng.choices(list(shares), list(shares.values()))[0]
                        await done.inflict(fault)
                await hooked.check(done.ledger)
        except Exception as error:
            done.ledger.break_(
                "the stack serves again after its faults", error=repr(error), trace=traceback.format_exc()
            )
            self._broken_down = True
        finally:
            self._current = None
            self._rounds += 1
            self._counts += done.ledger.counts
            self._takeovers += done.takeovers
            self._violations += [{"seed": seed, "round": number, **one} for one in done.ledger.violations]

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            counts = self._counts + (self._current.ledger.counts if self._current else Counter())
            kinds = sum(v for k, v in counts.items() if k.startswith("kind."))
            faults = sum(v for k, v in counts.items() if k.startswith("fault."))
            broken = len(self._violations) + (len(self._current.ledger.violations) if self._current else 0)
            print(
                f"{self._elapsed_s():6.0f} s  round {self._rounds + 1}  submissions {kinds}"
                f"  faults {faults}  broken promises {broken}",
                flush=True,
            )

    def _summary(self, lives: list[Any]) -> dict[str, Any]:
        counts = self._counts

        def under(prefix: str) -> dict[str, int]:
            return {k.removeprefix(prefix): v for k, v in sorted(counts.items()) if k.startswith(prefix)}

        given_up = under("given_up.")
        windows = Counter(window for life in lives for window in life.reached)
        return {
            "seed": self._options.seed,
            "engine": self._options.engine,
            "seconds": round(self._elapsed_s()),
            "rounds": self._rounds,
            "jobs": counts["jobs"],
            "submissions": under("kind."),
            "states": under("state."),
            "failed": under("failed."),
            "faults": under("fault."),
            "failpoints_reached": dict(sorted(windows.items())),
            "lost": counts["lost"],
            "doubled": counts["doubled"],
            "webhooks": counts["webhooks"],
            "webhooks_delivered_again": counts["webhooks_again"],
            "engine_runs": counts["engine_runs"],
            "engine_runs_allowed": counts["jobs"] + sum(given_up.values()),
            "attempts_given_up": given_up,
            "takeover_s": _quantiles([one.seconds for one in self._takeovers if not one.disturbed]),
            "takeover_s_disturbed": _quantiles([one.seconds for one in self._takeovers if one.disturbed]),
            "streams": {
                "job_event_streams": counts["event_streams"],
                "reconnects": counts["event_stream_reconnects"],
                "restarted_events": counts["restarted_events"],
                "openai_streams": counts["openai_streams"],
                "openai_streams_cut": counts["openai_streams_cut"],
                "openai_streams_error": under("openai_streams_error."),
                "background_streams": counts["background_streams"],
                "background_reconnects": counts["background_stream_reconnects"],
                "background_restarts": counts["background_restarts"],
                "tokens_repeated": counts["tokens_repeated"],
                "tokens_lost": counts["tokens_lost"],
            },
            "submits_answered_5xx": counts["submits_5xx"],
            "submits_answered_5xx_that_ran": counts["submits_5xx_ran"],
            "error_answers": under("answers."),
            "process_ends": dict(
                Counter(f"{life.name[:-1]} status {life.status}" for life in lives if life.status is not None)
            ),
            "broken_promises": dict(Counter(one["invariant"] for one in self._violations)),
            "violations": self._violations,
        }


def _quantiles(values: list[float]) -> dict[str, float | int | None]:
    ordered = sorted(values)

    def at(share: float) -> float | None:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None

    return {"n": len(ordered), "p50": at(0.5), "p99": at(0.99), "max": at(1.0)}


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Random faults under mixed load.")
    parser.add_argument("--seed", default="1", help="of everything that is drawn")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long; the last round ends after it")
    parser.add_argument("--engine", choices=["simulated", "vllm"], default="simulated")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--round", type=int, help="do this round alone")
    parser.add_argument("--out", type=Path, help="folder for logs and summary; default: a new one")
    return asyncio.run(Chaos(parser.parse_args()).run())


if __name__ == "__main__":
    sys.exit(main())
