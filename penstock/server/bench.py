"""``penstock bench fit``: the pace of a real engine, in the form that ``--paced`` takes."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import click

from monitoring.logging import configure_logging
from workers.devices.taking import take_devices
from workers.engines.base import EngineDeadError, EngineStartError
from workers.engines.factory import engine_for
from workers.engines.vllm.fitting import Workload
from workers.engines.vllm.paced_config import STEP_LOG
from workers.engines.vllm.step_cost import Fit, Sample, fit, medians
from workers.settings import WorkerSettings

_SCHEDULER = "workers.engines.vllm.timed_scheduler.make_scheduler"
_AT_LEAST = 3
"""Samples of a kind of step that counts: a batch that has just begun passes through many kinds, once each."""


def run_fit(overrides: dict[str, Any], *, as_json: bool) -> None:
    """Start an engine in this process, measure its steps, and print the pace that fits them.

    Args:
        overrides: settings of a worker, given on the command line; the rest comes from the environment and the files.
        as_json: print JSON.

    Raises:
        pydantic.ValidationError: a bad setting.
        DeviceStartError: the GPUs make more than one engine.
        EngineStartError: the engine cannot start, or it died, or its steps tell nothing.
    """
    settings = WorkerSettings(**overrides)
    configure_logging("warning")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "steps"
        flags = (
            f"--scheduler-cls={_SCHEDULER}",
            f"--additional-config={_ours(log)}",
            "--no-enable-prefix-caching",
        )
        settings, device = take_devices(settings)
        settings = settings.model_copy(update={"engine_args": (*settings.engine_args, *flags)})
        model, steps = asyncio.run(_measure(settings, log))
    kinds = medians(steps, at_least=_AT_LEAST)
    try:
        found = fit(kinds)
    except ValueError as error:
        raise EngineStartError(f"{len(steps)} steps were measured, and no pace fits: {error}") from error
    report = _as_json if as_json else _as_text
    click.echo(report(found, kinds, len(steps), f"{model} on {device.name}"))


async def _measure(settings: WorkerSettings, log: Path) -> tuple[str, list[Sample]]:
    engine = await asyncio.to_thread(engine_for, settings)
    try:
        await engine.start()
        click.echo("the engine is ready; its steps are measured", err=True)
        workload = Workload(engine, log, lambda line: click.echo(f"  {line}", err=True))
        return engine.models()[0].name, await workload.run()
    except EngineDeadError as error:
        raise EngineStartError(str(error)) from error
    finally:
        await engine.stop()


def _ours(log: Path) -> str:
    return json.dumps({"penstock": {STEP_LOG: str(log)}})


def _as_json(found: Fit, kinds: list[Sample], steps: int, what: str) -> str:
    return json.dumps(
        {
            "paced": _pace(found),
            "engine": what,
            **found.cost.card(),
            "mean_error": round(found.mean_error, 4),
            "worst_error": round(found.worst_error, 4),
            "steps": steps,
            "medians": [[kind.decodes, kind.prompt_tokens, round(kind.took_s * 1000, 4)] for kind in kinds],
        }
    )


def _as_text(found: Fit, kinds: list[Sample], steps: int, what: str) -> str:
    base, decode, prompt = found.cost.ms()
    return "\n".join(
        [
            f"{what}: {steps} steps, {len(kinds)} kinds of step",
            f"  a step               {base:.4g} ms",
            f"  a decoding sequence  {decode:.4g} ms",
            f"  a prompt token       {prompt:.4g} ms",
            f"  error of a kind      {found.mean_error:.1%} on average, {found.worst_error:.1%} at worst",
            f"Try it without the device: penstock up --paced {_pace(found)}",
        ]
    )


def _pace(found: Fit) -> str:
    return ",".join(f"{number:.4g}" for number in found.cost.ms())
