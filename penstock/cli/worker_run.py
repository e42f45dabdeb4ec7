"""``penstock worker run``, ``follow`` and ``check``: the processes of a worker's machine.

Only click is imported here; each command imports what it runs.
"""

from __future__ import annotations

from typing import Any

import click

from penstock.cli._starting import (
    ALIAS_HELP,
    ENGINE_ARG_HELP,
    ENGINES,
    GPUS_HELP,
    KV_CACHE_HELP,
    MODEL_HELP,
    PACED_HELP,
    TENSOR_HELP,
    WORKERS_HELP,
    given,
    start,
)

_NODES_HELP = "Machines that hold one copy of the model together.  [default: 1]"
_MASTER_HELP = "With --nodes: the first machine, as the others reach it, and a free port."


@click.command("run")
@click.option("--engine", type=ENGINES, help="What generates.  [default: vllm]")
@click.option("--model", metavar="NAME_OR_PATH", help=MODEL_HELP)
@click.option("--paced", metavar="PACE", help=PACED_HELP)
@click.option("--served-model-name", metavar="NAME", help="The name clients use.  [default: the model's]")
@click.option("--name", metavar="NAME", help="The worker's name before @host.  [default: its device]")
@click.option(
    "--pool",
    metavar="NAME",
    help="Its pool; a table of penstock.toml, where that has any.  [default: default]",
)
@click.option(
    "--pool-version", metavar="VN", help="A version of the pool's model, as v2: its pool is POOL-v2."
)
@click.option("--gpus", metavar="LIST", help=GPUS_HELP)
@click.option("--tensor-parallel", type=int, metavar="N", help=TENSOR_HELP)
@click.option("--nodes", type=int, metavar="N", help=_NODES_HELP)
@click.option("--node-master", metavar="HOST:PORT", help=_MASTER_HELP)
@click.option("--workers", type=int, metavar="N", help=WORKERS_HELP)
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help=ALIAS_HELP)
@click.option("--concurrency", type=int, metavar="N", help="Jobs on the engine at once.")
@click.option("--kv-cache-gib", type=float, metavar="GIB", help=KV_CACHE_HELP)
@click.option(
    "--cpu-memory-share",
    type=float,
    metavar="PART",
    help="Part of the free memory to count on.  [default: 1]",
)
@click.option("--metrics-host", metavar="HOST", help="Where /metrics listens.  [default: 127.0.0.1]")
@click.option("--metrics-port", type=int, metavar="PORT", help="Port of /metrics.  [default: a free one]")
@click.option("--openai-base-url", metavar="URL", help="With --engine openai: its server, with /v1.")
@click.option("--drain-timeout-s", type=float, metavar="S", help="Time for running jobs after SIGTERM.")
@click.option("--engine-arg", "engine_args", multiple=True, metavar="FLAG", help=ENGINE_ARG_HELP)
@click.option("--data-dir", metavar="DIR", help="Where the tiny model is kept.  [default: .penstock]")
@click.option("--redis-url", metavar="URL", help="Redis or Valkey.")
@click.option("--namespace", metavar="NAME", help="Prefix of every key.  [default: penstock]")
def run(**options: Any) -> None:
    """Run a worker: an engine on a group of devices; one process for each group.

    \b
    Examples:
      penstock worker run --model Qwen/Qwen2.5-7B-Instruct --gpus 0 --redis-url redis://queue:6379/0
      penstock worker run --model Qwen/Qwen2.5-72B-Instruct --gpus all --tensor-parallel 4
      penstock worker run --pool chat          # as penstock.toml says in [pools.chat]

    On SIGTERM it drains: running jobs get the drain timeout, the rest goes back to the queue, and it exits with
    status 0.
    """  # noqa: D301  # \b is click's mark
    start("worker", "penstock.server.workers:run_workers", given(**options))


@click.command("check")
@click.option("--redis-url", metavar="URL", help="Redis or Valkey.")
@click.option("--namespace", metavar="NAME", help="Prefix of every key.  [default: penstock]")
def check(**options: Any) -> None:
    """Say whether a worker of this machine holds its lease; exit status 0 if so, 1 if not.

    \b
    Examples:
      penstock worker check || echo "no worker here"

    It is made for health checks: the lease shows that the worker's loop runs and reaches Redis. A worker that is still
    loading its model has none yet.
    """  # noqa: D301  # \b is click's mark
    start("worker check", "penstock.server.check:check_worker", given(**options))


@click.command("follow")
@click.argument("rank", type=click.IntRange(1, 63))
@click.option(
    "--pool", metavar="NAME", help="The worker's pool; a table of penstock.toml, where that has any."
)
@click.option("--model", metavar="NAME_OR_PATH", help="As the worker's.")
@click.option("--nodes", type=int, metavar="N", help=_NODES_HELP)
@click.option("--node-master", metavar="HOST:PORT", help=_MASTER_HELP)
@click.option("--gpus", metavar="LIST", help=GPUS_HELP)
@click.option(
    "--tensor-parallel", type=int, metavar="N", help="GPUs of all nodes that hold one copy of the model."
)
@click.option("--kv-cache-gib", type=float, metavar="GIB", help=KV_CACHE_HELP)
@click.option("--engine-arg", "engine_args", multiple=True, metavar="FLAG", help=ENGINE_ARG_HELP)
@click.option("--data-dir", metavar="DIR", help="Where the tiny model is kept.  [default: .penstock]")
@click.option("--redis-url", metavar="URL", help="Redis or Valkey.")
@click.option("--namespace", metavar="NAME", help="Prefix of every key.  [default: penstock]")
def follow(*, rank: int, **options: Any) -> None:
    """Run a remote node of a worker whose engine is on several machines: its rank, from 1. The worker is rank 0.

    \b
    Examples:
      penstock worker run --pool big                   # on the first machine; [pools.big] says nodes and node_master
      penstock worker follow 1 --pool big              # on the second, with the same penstock.toml

    It needs the worker's settings and Redis. When the worker ends, its processes end too, and wait for its next start. It
    runs until SIGTERM.
    """  # noqa: D301  # \b is click's mark
    start("worker follow", "workers.nodes.main:run_node", given(**options), rank=rank)
