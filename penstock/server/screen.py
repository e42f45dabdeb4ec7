"""What ``penstock up`` shows: a table, a line while the engine loads, and what happens after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

from rich.console import Console

from broker.db.urls import without_password
from penstock.server.first_key import FirstKey
from penstock.server.fleet import Part
from penstock.server.plan import Plan
from penstock.server.ports import http_address
from workers.devices.pools import served_name
from workers.devices.tiny_models import TINY_MODELS
from workers.settings import WorkerSettings

_LINE_EVERY_S = 5.0  # while waiting, where there is no terminal for a spinner

_RANDOM_MODEL = (
    "The model is a tiny one with random weights, for trying the plumbing: it answers quickly, in nonsense.\n"
    "Name a real one: --model Qwen/Qwen2.5-0.5B-Instruct (from the hub), or --model with a local path."
)
_PACED = "The engine is paced: it computes nothing and makes up its tokens. Its step times are those of a cost model."
_SIMULATED = "The engine is simulated: it makes up its answers. It is for load and fault tests."


_ABOUT = {"random": _RANDOM_MODEL, "paced": _PACED, "simulated": _SIMULATED}
"""What is said of an engine that is not what it may seem."""


class Screen:
    """Standard output of ``penstock up``."""

    def __init__(self) -> None:
        self._console = Console(soft_wrap=True, highlight=False, markup=False)
        self._was_ready = False

    def line(self, text: str) -> None:
        """Print a line."""
        self._console.print(text)

    def table(self, plan: Plan) -> None:
        """Print what runs where."""
        asked = plan.settings
        address = http_address(asked.host, plan.port, asked.scheme)
        self.line(f"  api     {address}  (its reference: {address}/docs)")
        if plan.flower_port is not None:
            self.line(f"  flower  {http_address('127.0.0.1', plan.flower_port)}")
        own = "  (embedded Valkey, every write on disk)" if plan.embedded else ""
        self.line(f"  redis   {without_password(plan.redis_url)}{own}")
        for pool, parts in groupby(plan.parts, key=lambda part: part.settings.pool):
            self.line(f"  worker  {_workers(pool, list(parts))}")
        self.line(f"  logs    {plan.logs}/")
        kinds = {_kind(part.settings) for part in plan.parts}
        for kind, text in _ABOUT.items():
            if kind in kinds:
                self.line(text)

    @contextmanager
    def waiting(self) -> Iterator[Callable[[str], None]]:
        """Show for how long we wait: a spinner on a terminal, else a line now and then.

        Yields:
            A function that takes what is still missing.
        """
        started = time.monotonic()
        if self._console.is_terminal:
            with self._console.status("starting...") as status:
                yield lambda missing: status.update(f"{_phrase(missing)} {time.monotonic() - started:.0f} s")
            return
        last = started

        def say(missing: str) -> None:
            nonlocal last
            if time.monotonic() - last >= _LINE_EVERY_S:
                last = time.monotonic()
                self.line(f"{_phrase(missing)} {last - started:.0f} s")

        yield say

    def ready(self, address: str) -> None:
        """Print the line that scripts wait for."""
        self._was_ready = True
        self.line(f"penstock is ready on {address}")
        self.line("Ctrl-C stops it.")

    def admin_key(self, key: FirstKey) -> None:
        """Say which key an administrator has: a new one is printed this once."""
        place = f"`penstock` in this folder takes it by itself; elsewhere: export PENSTOCK_API_KEY=$(cat {key.path})"
        if key.wrong:
            self.line(f"API keys are required. The key in {key.path} is not valid any more: {key.wrong}.")
        elif key.new:
            self.line(
                f"API keys are required. An administrator's key, kept in {key.path}: {key.text}\n{place}"
            )
        else:
            self.line(f"API keys are required. An administrator's key is in {key.path}: {place}")

    def stopping(self, drain_timeout_s: float) -> None:
        """Say that the stop has begun."""
        if self._was_ready:
            self.line(f"stopping: running jobs get up to {drain_timeout_s:g} s; Ctrl-C again to hurry")


def _kind(settings: WorkerSettings) -> str:
    if settings.paced is not None:
        return "paced"
    tiny = settings.model is None or settings.model in TINY_MODELS
    return "random" if settings.engine == "vllm" and tiny else settings.engine


def _workers(pool: str, parts: Sequence[Part]) -> str:
    """Say what a pool's workers are: ``2 x engine vllm, model x, on GPU 0 | GPU 1``."""
    settings = parts[0].settings
    times = f"{len(parts)} x " if len(parts) > 1 else ""
    model = served_name(settings)
    engine = settings.engine if settings.paced is None else f"{settings.engine}, paced"
    what = f"engine {engine}" + ("" if model in {None, "simulated"} else f", model {model}")
    where = ""
    if settings.engine == "vllm":
        where = ", on " + " | ".join(dict.fromkeys(part.place for part in parts))
    if settings.swap_group is not None:
        where += f", in turns with the swap group {settings.swap_group}"
    also = f", also called {', '.join(settings.aliases)}" if settings.aliases else ""
    return ("" if pool == "default" else f"pool {pool}: ") + times + what + where + also


def _phrase(missing: str) -> str:
    return "engine loading..." if missing == "worker" else f"waiting for {missing}..."
