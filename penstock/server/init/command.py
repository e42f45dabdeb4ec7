"""``penstock init``: looks at the machine, and writes the file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from broker.sources import settings_file
from penstock.server.doctor.machine import free_memory
from penstock.server.init.choice import Place, known_size, places, suggested
from penstock.server.init.text import written
from workers.devices.layout import VISIBLE
from workers.devices.nvml import Gpu, look, visible, vllm_runs_on_cpu
from workers.devices.weights import weights_bytes

_GB = 10**9


class InitStartError(Exception):
    """The file cannot be written. The message says why."""


def run_init(
    *,
    output: Path | None,
    model: str | None,
    pools: Sequence[tuple[str, str]],
    chosen: dict[str, Any],
    only_print: bool,
    force: bool,
) -> None:
    """Write a ``penstock.toml`` for this machine.

    Args:
        output: the file; None: the one that every process here reads.
        model: None: one that suits the machine.
        pools: names and models; empty: one model without a table.
        chosen: settings to write.
        only_print: print it, and write nothing.
        force: replace a file that is there.

    Raises:
        InitStartError: the file is there, or cannot be written.
        DeviceStartError: the driver of the GPUs fails.
    """
    elsewhere = chosen.get("engine", "vllm") != "vllm"
    gpus = () if elsewhere or vllm_runs_on_cpu() else visible(look(), os.environ.get(VISIBLE))
    memory = free_memory() or 0
    found: list[Place]
    if pools:
        found = places(pools, gpus, _sizes(name for _, name in pools))
    elif elsewhere:
        found = [Place("", model)]
    elif model is not None:
        found = places([("", model)], gpus, _sizes([model]))
    else:
        fitting, group = suggested(gpus, memory)
        listed = ",".join(str(gpu.index) for gpu in gpus) or None
        found = [Place("", fitting, listed, group)]
    text = written(_machine(gpus, memory), chosen, found)
    if only_print:
        click.echo(text)
        return
    path = output or settings_file()
    _write(path, text, force=force, private="@" in str(chosen.get("redis_url", "")))
    names = ", ".join(place.model or "a tiny random model" for place in found)
    where = f"{len(gpus)} GPUs" if len(gpus) > 1 else f"GPU {gpus[0]}" if gpus else "the CPU"
    click.echo(f"{path} is written: {names if not elsewhere else chosen['engine']} on {where}", err=True)
    click.echo("Look for what is missing: penstock doctor\nStart it:                penstock up", err=True)


def _sizes(models: Iterable[str]) -> dict[str, float]:
    """Return the GB of weights of each model whose files are here, or whose name is known."""
    found = {}
    for model in models:
        size = weights_bytes(model)
        size_gb = known_size(model) if size is None else size / _GB
        if size_gb is not None:
            found[model] = size_gb
    return found


def _machine(gpus: Sequence[Gpu], memory: int) -> str:
    cores = f"{os.cpu_count()} CPUs, {memory / _GB:.0f} GB of memory free"
    return (
        f"{', '.join(f'GPU {gpu}' for gpu in gpus)}; {cores}" if gpus else f"{cores}, no GPU that vLLM uses"
    )


def _write(path: Path, text: str, *, force: bool, private: bool) -> None:
    """Write the file as a whole, or not at all. ``private``: it holds a password, so only its owner may read it."""
    draft = path.with_name(f"{path.name}.new")
    try:
        if path.exists() and not force:
            raise InitStartError(
                f"{path} exists already; --force replaces it, --print shows what would be written"
            )
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600 if private else 0o644)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise InitStartError(f"{path} cannot be written: {error.strerror}") from error
