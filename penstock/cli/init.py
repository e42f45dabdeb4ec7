"""``penstock init``: a first ``penstock.toml``."""

from __future__ import annotations

import re
from pathlib import Path

import click
from click import option

from penstock.cli._parse import pair
from penstock.cli._starting import ENGINES, given, start

_POOL = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _pool(text: str) -> tuple[str, str]:
    """Read ``NAME=MODEL``. Raises click.BadParameter."""
    name, model = pair(text)
    if not _POOL.fullmatch(name) or not model:
        raise click.BadParameter(f"{text!r} is not NAME=MODEL; a name has letters, digits, - and _")
    return name, model


@click.command("init")
@option("-m", "--model", metavar="NAME_OR_PATH", help="One model.  [default: one that suits this machine]")
@option(
    "--pool",
    "pools",
    type=_pool,
    multiple=True,
    metavar="NAME=MODEL",
    help="Several models: a pool for each.",
)
@option("--engine", type=ENGINES, help="What generates.  [default: vllm]")
@option("--openai-base-url", metavar="URL", help="With --engine openai: its server, with /v1.")
@option("--redis-url", metavar="URL", help="A server of your own.  [default: an embedded Valkey]")
@option("--host", metavar="HOST", help="Where the api listens.  [default: 127.0.0.1]")
@option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="The api's port.  [default: 8080]")
@option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="[default: penstock.toml]")
@option("--print", "only_print", is_flag=True, help="Print it, and write nothing.")
@option("--force", is_flag=True, help="Replace a file that is there.")
def init(
    *,
    model: str | None,
    pools: tuple[tuple[str, str], ...],
    output: Path | None,
    only_print: bool,
    force: bool,
    **chosen: str | int | None,
) -> None:
    """Write a commented penstock.toml for this machine: its GPUs and memory, a model that fits, what else can be set.

    \b
    Examples:
      penstock init
      penstock init --print
      penstock init --model /models/Qwen2.5-7B-Instruct
      penstock init --pool chat=Qwen/Qwen2.5-7B-Instruct --pool embed=BAAI/bge-m3
      penstock init --engine openai --openai-base-url http://127.0.0.1:8000/v1

    A file that is there is not replaced without --force. Then: penstock doctor, and penstock up.
    """  # noqa: D301  # \b is click's mark
    if model is not None and pools:
        raise click.UsageError("give either --model or --pool")
    if len({name for name, _ in pools}) < len(pools):
        raise click.UsageError("each --pool needs a name of its own")
    start(
        "init",
        "penstock.server.init.command:run_init",
        names=False,  # it may replace a file that has wrong ones
        output=output,
        model=model,
        pools=pools,
        chosen=given(**chosen),
        only_print=only_print,
        force=force,
    )
