"""The server's commands: ``penstock up``, and its single processes for compose and for several machines.

Only click is imported here; each command imports what it runs. ``worker drain`` is a client's command.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

import click

from penstock._version import __version__
from penstock.cli.encryption import encryption
from penstock.cli.workers import drain

F = TypeVar("F", bound=Callable[..., Any])

_ENGINES = click.Choice(["vllm", "openai", "simulated"])
_MODEL_HELP = (
    "Hub name or local path. Without it: a tiny random model, for trying the plumbing; "
    "tiny-embed, tiny-rerank, tiny-classify, tiny-whisper and tiny-vision are others."
)
_GPUS_HELP = "GPU indices, as 0,1, or all: one worker for each group.  [default: the first, or the CPU]"
_TENSOR_HELP = "GPUs in a group, which hold one copy of the model.  [default: 1]"
_NODES_HELP = "Machines that hold one copy of the model together.  [default: 1]"
_MASTER_HELP = "With --nodes: the first machine, as the others reach it, and a free port."
_PACED_HELP = (
    "Compute nothing; steps take the time of a cost model: H100-8B, H100-1B, or three numbers in ms."
)
_WORKERS_HELP = "Worker processes.  [default: one for each group of GPUs]"
_KV_CACHE_HELP = "Memory for the KV cache.  [default: on the CPU half of what is free, on a GPU vLLM's own]"
_ALIAS_HELP = "A further name for the model; may be given several times."
_TLS_CERT_HELP = "PEM file with a certificate: the api serves https.  [default: plain http]"
_TLS_KEY_HELP = "PEM file with its private key.  [default: in the certificate's file]"
_TLS_CA_HELP = "PEM file with authorities whose certificates clients must show.  [default: they need none]"
_KEYED_HELP = "Require API keys on this machine too. A --host that others reach requires them anyway."
_KEYLESS_HELP = "Require no API keys on a --host that other machines reach."
_ENGINE_ARG_HELP = "A flag for vLLM, as --engine-arg=--max-model-len=2048; may be given several times."


def _given(**options: Any) -> dict[str, Any]:
    """Keep what was given on the command line; the rest is for the environment and the files."""
    return {name: value for name, value in options.items() if value not in {None, ()}}


def _tls_options(command: F) -> F:
    """Give a command the options of TLS."""
    for name, text in (("client-ca", _TLS_CA_HELP), ("key", _TLS_KEY_HELP), ("cert", _TLS_CERT_HELP)):
        command = click.option(f"--tls-{name}-file", metavar="FILE", help=text)(command)
    return command


def _start(command: str, target: str, *args: Any, **kw: Any) -> None:
    """Import the function that runs a process, ``module:name``, and call it."""
    from penstock.server.errors import starting

    module, _, name = target.partition(":")
    starting(command, lambda: getattr(import_module(module), name)(*args, **kw))


@click.command("up")
@click.option(
    "--profile", type=click.Choice(["edge"]), help="Defaults for a kind of machine. edge: little memory."
)
@click.option("--host", metavar="HOST", help="Where the api listens.  [default: 127.0.0.1]")
@click.option("--port", type=int, metavar="PORT", help="The api's port.  [default: 8080]")
@click.option("--require-keys", is_flag=True, default=None, help=_KEYED_HELP)
@click.option("--without-keys", is_flag=True, default=None, help=_KEYLESS_HELP)
@_tls_options
@click.option("--data-dir", metavar="DIR", help="Queue, models and logs.  [default: .penstock]")
@click.option("--redis-url", metavar="URL", help="A server of your own.  [default: an embedded Valkey]")
@click.option("--engine", type=_ENGINES, help="What generates.  [default: vllm]")
@click.option("--model", metavar="NAME_OR_PATH", help=_MODEL_HELP)
@click.option("--paced", metavar="PACE", help=_PACED_HELP)
@click.option("--workers", type=int, metavar="N", help=_WORKERS_HELP)
@click.option("--gpus", metavar="LIST", help=_GPUS_HELP)
@click.option("--tensor-parallel", type=int, metavar="N", help=_TENSOR_HELP)
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help=_ALIAS_HELP)
@click.option("--flower/--no-flower", default=None, help="Flower too.  [default: yes]")
@click.option("--flower-port", type=int, metavar="PORT", help="Flower's port.  [default: 5555]")
@click.option("--openai-base-url", metavar="URL", help="With --engine openai: its server, with /v1.")
@click.option("--concurrency", type=int, metavar="N", help="Jobs on an engine at once.")
@click.option("--kv-cache-gib", type=float, metavar="GIB", help=_KV_CACHE_HELP)
@click.option("--drain-timeout-s", type=float, metavar="S", help="Time for running jobs at the stop.")
@click.option("--engine-arg", "engine_args", multiple=True, metavar="FLAG", help=_ENGINE_ARG_HELP)
@click.option(
    "--as-configured", is_flag=True, default=None, help="Return from rollouts to what the settings name."
)
@click.option("--verbose", is_flag=True, help="Show the processes' logs here too.")
def up(*, verbose: bool, **options: Any) -> None:
    """Run everything on this machine until Ctrl-C: queue, api, coordinator, workers, Flower.

    \b
    Examples:
      penstock up
      penstock up --model Qwen/Qwen2.5-7B-Instruct --gpus all --tensor-parallel 2
      penstock up --tls-cert-file server.pem --tls-key-file server.key
      penstock up --host 0.0.0.0           # for others too: with API keys, the first of which it prints

    Several models: one table [pools.NAME] for each in penstock.toml, see docs/operate/several-models.md.
    """  # noqa: D301  # \b is click's mark
    _start("up", "penstock.server.up:run_up", _given(**options), verbose=verbose)


@click.command("api")
@click.option("--host", metavar="HOST", help="Where it listens.  [default: 127.0.0.1]")
@click.option("--port", type=int, metavar="PORT", help="Its port.  [default: 8080]")
@click.option("--require-keys", is_flag=True, default=None, help=_KEYED_HELP)
@click.option("--without-keys", is_flag=True, default=None, help=_KEYLESS_HELP)
@_tls_options
@click.option("--redis-url", metavar="URL", help="Redis or Valkey.")
@click.option("--namespace", metavar="NAME", help="Prefix of every key.  [default: penstock]")
@click.option("--with-coordinator", is_flag=True, help="Run a coordinator in the same process: less memory.")
def api(host: str | None, port: int | None, *, with_coordinator: bool, **options: Any) -> None:
    """Run the HTTP api."""
    target = "penstock.server.together:run_together" if with_coordinator else "api.main:run_api"
    _start("api", target, host=host, port=port, overrides=_given(**options), version=__version__)


@click.command("coordinator")
@click.option("--metrics-host", metavar="HOST", help="Where /metrics listens.  [default: 127.0.0.1]")
@click.option("--metrics-port", type=int, metavar="PORT", help="Port of /metrics.  [default: a free one]")
@click.option(
    "--data-dir", metavar="DIR", help="Files are in it, unless files_url is set.  [default: .penstock]"
)
@click.option("--redis-url", metavar="URL", help="Redis or Valkey.")
@click.option("--namespace", metavar="NAME", help="Prefix of every key.  [default: penstock]")
def coordinator(**options: Any) -> None:
    """Run a coordinator, the process that drives batches.

    It checks their inputs, submits their rows, writes their outputs, and deletes expired files.

    \b
    Examples:
      penstock coordinator --redis-url redis://queue:6379/0
      PENSTOCK_FILES_URL=s3://bucket/penstock penstock coordinator --redis-url redis://queue:6379/0

    Without one, batches stand still, and `verify` and `retry` of a batch are answered 503. `penstock up` starts one.
    Any number may run, on any machine: each batch is driven by one of them, and by another if that one dies. All
    need the same Redis and the same files (setting files_url) as the api and the workers.

    On SIGTERM it finishes its present steps, gives its batches back and exits, within ten seconds.
    """  # noqa: D301  # \b is click's mark
    _start("coordinator", "coordinator.main:run_coordinator", _given(**options))


@click.group("worker", invoke_without_command=True, subcommand_metavar="[drain NAME | follow RANK | check]")
@click.option("--engine", type=_ENGINES, help="What generates.  [default: vllm]")
@click.option("--model", metavar="NAME_OR_PATH", help=_MODEL_HELP)
@click.option("--paced", metavar="PACE", help=_PACED_HELP)
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
@click.option("--gpus", metavar="LIST", help=_GPUS_HELP)
@click.option("--tensor-parallel", type=int, metavar="N", help=_TENSOR_HELP)
@click.option("--nodes", type=int, metavar="N", help=_NODES_HELP)
@click.option("--node-master", metavar="HOST:PORT", help=_MASTER_HELP)
@click.option("--workers", type=int, metavar="N", help=_WORKERS_HELP)
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help=_ALIAS_HELP)
@click.option("--concurrency", type=int, metavar="N", help="Jobs on the engine at once.")
@click.option("--kv-cache-gib", type=float, metavar="GIB", help=_KV_CACHE_HELP)
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
@click.option("--engine-arg", "engine_args", multiple=True, metavar="FLAG", help=_ENGINE_ARG_HELP)
@click.option("--data-dir", metavar="DIR", help="Where the tiny model is kept.  [default: .penstock]")
@click.option("--redis-url", metavar="URL", help="Redis or Valkey.")
@click.option("--namespace", metavar="NAME", help="Prefix of every key.  [default: penstock]")
@click.pass_context
def worker(ctx: click.Context, /, **options: Any) -> None:
    """Run a worker: an engine on a group of devices; one process for each group. Or drain one, here or elsewhere.

    \b
    Examples:
      penstock worker --model Qwen/Qwen2.5-7B-Instruct --gpus 0 --redis-url redis://queue:6379/0
      penstock worker --model Qwen/Qwen2.5-72B-Instruct --gpus all --tensor-parallel 4
      penstock worker --pool chat          # as penstock.toml says in [pools.chat]
      penstock worker drain gpu0@host --wait

    On SIGTERM it drains too: running jobs get the drain timeout, the rest goes back to the queue, and it exits
    with status 0.
    """  # noqa: D301  # \b is click's mark
    if ctx.invoked_subcommand is not None:
        if given := _given(**options):
            option = next(param.opts[0] for param in ctx.command.params if param.name in given)
            msg = f"{option} is for starting a worker, not for {ctx.invoked_subcommand}"
            raise click.UsageError(msg)
        return
    _start("worker", "penstock.server.workers:run_workers", _given(**options))


@click.command("check")
@click.option("--redis-url", metavar="URL", help="Redis or Valkey.")
@click.option("--namespace", metavar="NAME", help="Prefix of every key.  [default: penstock]")
def check(**options: Any) -> None:
    """Say whether a worker of this machine holds its lease; exit status 0 if so, 1 if not.

    It is made for health checks: the lease shows that the worker's loop runs and reaches Redis. A worker that is still
    loading its model has none yet.
    """
    _start("worker check", "penstock.server.check:check_worker", _given(**options))


@click.command("follow")
@click.argument("rank", type=click.IntRange(1, 63))
@click.option(
    "--pool", metavar="NAME", help="The worker's pool; a table of penstock.toml, where that has any."
)
@click.option("--model", metavar="NAME_OR_PATH", help="As the worker's.")
@click.option("--nodes", type=int, metavar="N", help=_NODES_HELP)
@click.option("--node-master", metavar="HOST:PORT", help=_MASTER_HELP)
@click.option("--gpus", metavar="LIST", help=_GPUS_HELP)
@click.option(
    "--tensor-parallel", type=int, metavar="N", help="GPUs of all nodes that hold one copy of the model."
)
@click.option("--kv-cache-gib", type=float, metavar="GIB", help=_KV_CACHE_HELP)
@click.option("--engine-arg", "engine_args", multiple=True, metavar="FLAG", help=_ENGINE_ARG_HELP)
@click.option("--data-dir", metavar="DIR", help="Where the tiny model is kept.  [default: .penstock]")
@click.option("--redis-url", metavar="URL", help="Redis or Valkey.")
@click.option("--namespace", metavar="NAME", help="Prefix of every key.  [default: penstock]")
def follow(*, rank: int, **options: Any) -> None:
    """Run a remote node of a worker whose engine is on several machines: its rank, from 1. The worker is rank 0.

    \b
    Examples:
      penstock worker --pool big                      # on the first machine; [pools.big] says nodes and node_master
      penstock worker follow 1 --pool big             # on the second, with the same penstock.toml

    It needs the worker's settings and Redis. When the worker ends, its processes end too, and wait for its next start. It
    runs until SIGTERM.
    """  # noqa: D301  # \b is click's mark
    _start("worker follow", "workers.nodes.main:run_node", _given(**options), rank=rank)


worker.add_command(drain)
worker.add_command(follow)
worker.add_command(check)


@click.command("flower")
@click.option("--address", "--host", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option("--port", type=int, default=5555, show_default=True, help="Its port.")
@click.option(
    "--basic-auth",
    multiple=True,
    metavar="USER:PASSWORD",
    help="A login. PENSTOCK_FLOWER_BASIC_AUTH, or a file penstock_flower_basic_auth in /run/secrets, keeps it out of `ps`.",
)
@click.option("--without-auth", is_flag=True, help="Allow an address that others reach without a login.")
@click.option("--url-prefix", metavar="PATH", help="Path under which a proxy serves it.")
@click.option("--redis-url", metavar="URL", help="Redis or Valkey.")
@click.option("--namespace", metavar="NAME", help="Prefix of every key.  [default: penstock]")
def flower(*, redis_url: str | None, namespace: str | None, **options: Any) -> None:
    """Run Flower on the same queue."""
    _start(
        "flower",
        "penstock.server.flower:run_flower",
        _given(redis_url=redis_url, namespace=namespace),
        **options,
    )


@click.command("fit")
@click.option("--model", metavar="NAME_OR_PATH", help=_MODEL_HELP)
@click.option("--paced", metavar="PACE", help="Fit a paced engine, to see how well a pace is found again.")
@click.option("--gpus", metavar="LIST", help="GPU indices, as 0,1.  [default: the first, or the CPU]")
@click.option("--tensor-parallel", type=int, metavar="N", help=_TENSOR_HELP)
@click.option("--concurrency", type=int, metavar="N", help="The largest batch.  [default: the engine's]")
@click.option("--kv-cache-gib", type=float, metavar="GIB", help=_KV_CACHE_HELP)
@click.option("--engine-arg", "engine_args", multiple=True, metavar="FLAG", help=_ENGINE_ARG_HELP)
@click.option("--data-dir", metavar="DIR", help="Where the tiny model is kept.  [default: .penstock]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the pace, its errors, the measured steps.")
def bench_fit(*, as_json: bool, **options: Any) -> None:
    """Measure the steps of a real engine, and print the pace (--paced) that fits them.

    \b
    Examples:
      penstock bench fit --model Qwen/Qwen2.5-7B-Instruct --gpus 0
      penstock bench fit --json > pace.json

    The engine runs alone in this process, without a queue: batches that decode, prompts of several lengths, and both
    together. With the tiny model on two CPU cores it takes half a minute. Nothing else should use the device.
    """  # noqa: D301  # \b is click's mark
    _start("bench fit", "penstock.server.bench:run_fit", _given(**options), as_json=as_json)


COMMANDS: list[click.Command] = [up, api, coordinator, worker, flower, encryption]
