"""``penstock bench URL``: load on a server, and what its callers see; ``penstock bench fit``: the pace of an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click import argument, option

from penstock.cli._bench_run import fields_of, measured, tell
from penstock.cli._exits import INTERRUPTED, JOB_NOT_OK, REFUSED, USAGE, fail
from penstock.cli._group import Group
from penstock.cli._parse import duration
from penstock.cli._run import Console, client_command, default_model
from penstock.cli.server import bench_fit

_LOAD = "load"
_ENDPOINTS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}
_CODES = """\b
Exit codes:
  0    every call succeeded
  1    some calls failed, or none was made
  2    wrong usage
  3    the server cannot be reached
  4    the server refused the first call, or every call
  130  stopped by Ctrl-C; the report has what was measured until then"""


class _Bench(Group):
    """Takes ``bench URL`` for ``bench load URL``, and shows that command's help as its own."""

    default = _LOAD

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See the class."""
        if args and args[0] not in {"-h", "--help", *self.commands}:
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See the class."""
        load = self.commands[self.default]
        with click.Context(load, info_name=ctx.info_name, parent=ctx.parent) as shown:
            load.format_help(shown, formatter)
        self.format_commands(ctx, formatter)


@click.group("bench", cls=_Bench)
def bench() -> None:
    """Measure a server under load, or an engine on this machine.

    \b
    Examples:
      penstock bench http://127.0.0.1:8080
      penstock bench fit --gpus 0
    """  # noqa: D301  # \b is click's mark


@click.command(_LOAD, epilog=_CODES, hidden=True)
@argument("server", metavar="URL")
@option(
    "-m", "--model", help="Its name there.  [env: PENSTOCK_CLIENT_MODEL; default: the first that is served]"
)
@option(
    "--endpoint",
    type=click.Choice(list(_ENDPOINTS)),
    default="chat",
    show_default=True,
    help="What is called.",
)
@option(
    "-c",
    "--concurrency",
    type=click.IntRange(1, 10_000),
    help="Callers, one call each at a time.  [default: 16]",
)
@option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="R",
    help="Calls a second, at random (Poisson).",
)
@option(
    "--max-in-flight",
    type=click.IntRange(1, 10_000),
    default=1000,
    show_default=True,
    help="With --rate: at once.",
)
@option(
    "--duration", "duration_s", type=duration, metavar="TIME", help="How long to measure.  [default: 30s]"
)
@option("-n", "--requests", type=click.IntRange(min=1), metavar="N", help="Calls to measure.")
@option(
    "--warm-up", "warm_up_s", type=duration, metavar="TIME", help="Load before that, which is not measured."
)
@option(
    "--stream/--whole", "streamed", default=True, show_default=True, help="Streamed answers, or whole ones."
)
@option(
    "--prompt-tokens",
    type=click.IntRange(1, 1_000_000),
    default=128,
    show_default=True,
    help="Of each prompt.",
)
@option(
    "--max-tokens", type=click.IntRange(1), default=64, show_default=True, help="Of each answer, at most."
)
@option("--ignore-eos", is_flag=True, help="Answers of exactly --max-tokens (Penstock, vLLM, SGLang).")
@option(
    "--prompts", type=click.Path(path_type=Path), metavar="FILE", help="Prompts, a line each, or JSON Lines."
)
@option("-d", "--data", metavar="JSON", help="Further fields of each request.")
@option(
    "--timeout",
    "timeout_s",
    type=duration,
    default="5m",
    show_default=True,
    metavar="TIME",
    help="Of a call.",
)
@option("--seed", type=int, default=1, show_default=True, help="Of the prompts and arrivals.")
@option("--svg", type=click.Path(path_type=Path), metavar="FILE", help="Write a picture too.")
@client_command
def load(
    console: Console,
    *,
    server: str,
    model: str | None,
    endpoint: str,
    concurrency: int | None,
    rate: float | None,
    max_in_flight: int,
    duration_s: float | None,
    requests: int | None,
    warm_up_s: float | None,
    streamed: bool,
    timeout_s: float,
    seed: int,
    svg: Path | None,
    **asked: Any,
) -> None:
    """Load a server, and report what its callers see: rates, times, errors.

    \b
    Examples:
      penstock bench http://127.0.0.1:8080
      penstock bench http://127.0.0.1:8000/v1 --concurrency 64 --duration 1m --warm-up 10s
      penstock bench http://127.0.0.1:8080 --rate 20 --prompt-tokens 500 --max-tokens 100 --ignore-eos
      penstock bench http://127.0.0.1:8080 --prompts prompts.txt --requests 200 --json > bench.json
      penstock bench http://127.0.0.1:8080 --endpoint embeddings --svg bench.svg
      penstock bench fit --gpus 0          # no server: the pace of an engine, for --paced

    URL is Penstock, or any server with OpenAI's API. Each caller sends its next call when it has its answer; with
    --rate, calls arrive at random times instead, whatever the server does. Prompts are made up, each another one.
    Ctrl-C ends it with a report of what was measured until then.
    """  # noqa: D301  # \b is click's mark
    if rate is not None and concurrency is not None:
        raise click.UsageError(
            "give either --concurrency or --rate; with --rate, --max-in-flight bounds the calls at once"
        )
    try:
        from penstock.bench.run import Load
    except ModuleNotFoundError as error:
        if error.name != "httptools":
            raise
        fail("penstock bench needs httptools: pip install 'penstock[bench]'", USAGE)
    streamed = streamed and endpoint != "embeddings"
    wanted = Load(
        concurrency=(max_in_flight if rate else concurrency or 16),
        rate=rate,
        duration_s=duration_s if duration_s or requests else 30.0,
        requests=requests,
        warm_up_s=warm_up_s or 0.0,
        timeout_s=timeout_s,
        seed=seed,
    )
    with console.client(server, on_retry=None) as client:
        from penstock.bench.target import Target, address_of
        from penstock.errors import APIConnectionError

        try:
            model = model or default_model(client)
        except APIConnectionError as error:  # its advice names --url, which is not where this command goes
            raise APIConnectionError(f"{error}. Is the server running at {server}?") from error
        path = _ENDPOINTS[endpoint]
        target = Target(address_of(client), path, _common(model, path, streamed=streamed, **asked), streamed)
        what = f"{model} at {client.base_url}"
    figures, interrupted = measured(console, target, wanted, **asked)
    tell(console, figures, what, wanted, target, svg)
    if interrupted:
        raise SystemExit(INTERRUPTED)
    if figures.errors:
        raise SystemExit(JOB_NOT_OK if figures.good else REFUSED)
    if not figures.good:
        fail("no call was due in the measured time: measure for longer, or at a higher --rate", JOB_NOT_OK)


def _common(
    model: str, path: str, *, streamed: bool, max_tokens: int, ignore_eos: bool, data: str | None, **_: Any
) -> dict[str, Any]:
    """Return the fields of each body."""
    common: dict[str, Any] = {"model": model}
    if path != _ENDPOINTS["embeddings"]:
        common["max_tokens"] = max_tokens
    if streamed:
        common |= {"stream": True, "stream_options": {"include_usage": True}}
    if ignore_eos:
        common["ignore_eos"] = True
    return common | fields_of(data)


bench.add_command(load)
bench.add_command(bench_fit)
