"""The common part of the commands that start processes of the server: they import what they run when they run."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from penstock.cli._exits import USAGE, fail

_OURS = frozenset({"api", "broker", "coordinator", "jobs", "monitoring", "storage", "workers"})
_CLIENTS = frozenset({"penstock", "httpx", "pydantic", "click", "rich"})

ENGINES = click.Choice(["vllm", "openai", "simulated"])
MODEL_HELP = (
    "Hub name or local path. Without it: a tiny random model, for trying the plumbing; "
    "tiny-embed, tiny-rerank, tiny-classify, tiny-whisper and tiny-vision are others."
)
GPUS_HELP = "GPU indices, as 0,1, or all: one worker for each group.  [default: the first, or the CPU]"
TENSOR_HELP = "GPUs in a group, which hold one copy of the model.  [default: 1]"
PACED_HELP = "Compute nothing; steps take the time of a cost model: H100-8B, H100-1B, or three numbers in ms."
WORKERS_HELP = "Worker processes.  [default: one for each group of GPUs]"
KV_CACHE_HELP = "Memory for the KV cache.  [default: on the CPU half of what is free, on a GPU vLLM's own]"
ALIAS_HELP = "A further name for the model; may be given several times."
ENGINE_ARG_HELP = "A flag for vLLM, as --engine-arg=--max-model-len=2048; may be given several times."


def given(**options: Any) -> dict[str, Any]:
    """Keep what was given on the command line; the rest is for the environment and the files."""
    return {name: value for name, value in options.items() if value not in {None, ()}}


def start(command: str, target: str, *args: Any, names: bool = True, **kw: Any) -> None:
    """Run a process of the server, or say that it is not installed here.

    Args:
        command: the speaker of its messages.
        target: the function to import and call, as ``module:name``.
        names: refuse settings that nobody knows.

    Raises:
        SystemExit: 2, this is an install without the server.
        CommandFailed: it cannot start.
    """
    try:
        from penstock.server.errors import starting

        module, _, name = target.partition(":")
        starting(command, lambda: getattr(import_module(module), name)(*args, **kw), names=names)
    except ModuleNotFoundError as exc:
        if not _is_server_package(exc):
            raise
        missing = f"no module {exc.name!r} here"
        fail(
            f"{command} needs the repository checkout with its server requirements installed ({missing})",
            USAGE,
        )


def _is_server_package(exc: ModuleNotFoundError) -> bool:
    """Whether what is missing is the server's: a package of ours, or a library that the SDK does not need."""
    top = (exc.name or "").partition(".")[0]
    return top in _OURS or (top != "" and top not in _CLIENTS)
