"""The commands that start the server: ``penstock up``, and its single processes for compose and several machines.

Only click is imported here; each command imports what it runs. Workers have a module of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from penstock._version import __version__
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

F = TypeVar("F", bound=Callable[..., Any])

_TLS_CERT_HELP = "PEM file with a certificate: the api serves https.  [default: plain http]"
_TLS_KEY_HELP = "PEM file with its private key.  [default: in the certificate's file]"
_TLS_CA_HELP = "PEM file with authorities whose certificates clients must show.  [default: they need none]"
_KEYED_HELP = "Require API keys on this machine too. A --host that others reach requires them anyway."
_KEYLESS_HELP = "Require no API keys on a --host that other machines reach."


def _tls_options(command: F) -> F:
    """Give a command the options of TLS."""
    for name, text in (("client-ca", _TLS_CA_HELP), ("key", _TLS_KEY_HELP), ("cert", _TLS_CERT_HELP)):
        command = click.option(f"--tls-{name}-file", metavar="FILE", help=text)(command)
    return command


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
@click.option("--engine", type=ENGINES, help="What generates.  [default: vllm]")
@click.option("--model", metavar="NAME_OR_PATH", help=MODEL_HELP)
@click.option("--paced", metavar="PACE", help=PACED_HELP)
@click.option("--workers", type=int, metavar="N", help=WORKERS_HELP)
@click.option("--gpus", metavar="LIST", help=GPUS_HELP)
@click.option("--tensor-parallel", type=int, metavar="N", help=TENSOR_HELP)
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help=ALIAS_HELP)
@click.option("--flower/--no-flower", default=None, help="Flower too.  [default: yes]")
@click.option("--flower-port", type=int, metavar="PORT", help="Flower's port.  [default: 5555]")
@click.option("--openai-base-url", metavar="URL", help="With --engine openai: its server, with /v1.")
@click.option("--concurrency", type=int, metavar="N", help="Jobs on an engine at once.")
@click.option("--kv-cache-gib", type=float, metavar="GIB", help=KV_CACHE_HELP)
@click.option("--drain-timeout-s", type=float, metavar="S", help="Time for running jobs at the stop.")
@click.option("--engine-arg", "engine_args", multiple=True, metavar="FLAG", help=ENGINE_ARG_HELP)
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
    start("up", "penstock.server.up:run_up", given(**options), verbose=verbose)


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
    """Run the HTTP api.

    \b
    Examples:
      penstock api --redis-url redis://queue:6379/0
      penstock api --host 0.0.0.0 --tls-cert-file server.pem --tls-key-file server.key
    """  # noqa: D301  # \b is click's mark
    target = "penstock.server.together:run_together" if with_coordinator else "api.main:run_api"
    start("api", target, host=host, port=port, overrides=given(**options), version=__version__)


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

    Without one, no batch makes progress, and `verify` and `retry` of a batch are answered 503. `penstock up` starts one.
    Any number may run, on any machine: each batch is driven by one of them, and by another if that one dies. All
    need the same Redis and the same files (setting files_url) as the api and the workers.

    On SIGTERM it finishes its present steps, gives its batches back and exits, within ten seconds.
    """  # noqa: D301  # \b is click's mark
    start("coordinator", "coordinator.main:run_coordinator", given(**options))


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
    """Run Flower, Celery's monitor, on the same queue.

    \b
    Examples:
      penstock flower --redis-url redis://queue:6379/0
      PENSTOCK_FLOWER_BASIC_AUTH=me:secret penstock flower --address 0.0.0.0
    """  # noqa: D301  # \b is click's mark
    start(
        "flower",
        "penstock.server.flower:run_flower",
        given(redis_url=redis_url, namespace=namespace),
        **options,
    )


@click.command("fit")
@click.option("--model", metavar="NAME_OR_PATH", help=MODEL_HELP)
@click.option("--paced", metavar="PACE", help="Fit a paced engine, to see how well a pace is found again.")
@click.option("--gpus", metavar="LIST", help="GPU indices, as 0,1.  [default: the first, or the CPU]")
@click.option("--tensor-parallel", type=int, metavar="N", help=TENSOR_HELP)
@click.option("--concurrency", type=int, metavar="N", help="The largest batch.  [default: the engine's]")
@click.option("--kv-cache-gib", type=float, metavar="GIB", help=KV_CACHE_HELP)
@click.option("--engine-arg", "engine_args", multiple=True, metavar="FLAG", help=ENGINE_ARG_HELP)
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
    start("bench fit", "penstock.server.bench:run_fit", given(**options), as_json=as_json)
