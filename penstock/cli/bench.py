"""``penstock bench URL``: load on a server, and what its callers see; ``penstock bench fit``: the pace of an engine."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import argument, option

from penstock.cli._exits import INTERRUPTED, JOB_NOT_OK, REFUSED, USAGE, fail, note
from penstock.cli._group import Group
from penstock.cli._parse import duration, raw_body
from penstock.cli._run import Console, client_command, default_model, print_json
from penstock.cli._table import printable, screen
from penstock.cli.server import bench_fit

if TYPE_CHECKING:
    from penstock.bench.figures import Figures
    from penstock.bench.run import Load, Run
    from penstock.bench.target import Target

_LOAD = "load"
_ENDPOINTS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}
_LIVE_S = 0.5
_CODES = """\b
Exit codes:
  0    every call succeeded
  1    some calls failed
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

        model = model or default_model(client)
        path = _ENDPOINTS[endpoint]
        target = Target(address_of(client), path, _common(model, path, streamed=streamed, **asked), streamed)
        what = f"{model} at {client.base_url}"
    figures, interrupted = _measure(console, target, wanted, **asked)
    _tell(console, figures, what, wanted, target, svg)
    if interrupted:
        raise SystemExit(INTERRUPTED)
    if figures.errors:
        raise SystemExit(JOB_NOT_OK if figures.good else REFUSED)


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
    return common | _fields(data)


def _fields(data: str | None) -> dict[str, Any]:
    return raw_body(data, "--data") if data else {}


def _measure(
    console: Console,
    target: Target,
    wanted: Load,
    *,
    prompts: Path | None,
    prompt_tokens: int,
    data: str | None,
    **_: Any,
) -> tuple[Figures, bool]:
    """Run the load; return what was seen, and whether Ctrl-C ended it. Raises PenstockError."""
    from penstock.bench.figures import Figures
    from penstock.bench.prompts import PromptFileError, made_up, of_file
    from penstock.bench.run import Run

    figures = Figures()
    interrupted = False

    def bodies(words: int) -> Iterator[bytes]:
        if prompts is None:
            return made_up(target.path, words, target.common, wanted.seed)
        return of_file(target.path, prompts, target.common, _fields(data))

    async def measure() -> None:
        nonlocal interrupted
        words = 0 if prompts is not None else await target.words_for(prompt_tokens)
        run = Run(target.address, target.path, bodies(words), wanted, figures, streamed=target.streamed)

        def stop() -> None:
            nonlocal interrupted
            interrupted = True
            run.stop()
            loop.remove_signal_handler(signal.SIGINT)  # a second one ends it at once

        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError):  # Windows: Ctrl-C ends it without a report
            loop.add_signal_handler(signal.SIGINT, stop)
        await _shown(run, figures, live=not console.events and sys.stderr.isatty())

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(measure())
    except PromptFileError as error:
        fail(str(error), USAGE)
    return figures, interrupted


def _loop_factory() -> Any:
    """Return what makes uvloop's loop, if that is installed: it sends on time under more load."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _shown(run: Run, figures: Figures, *, live: bool) -> None:
    """Run it, with a line on the terminal that says how it goes."""
    from penstock.bench.report import live_line

    async def tell() -> None:
        while True:
            await asyncio.sleep(_LIVE_S)
            text = live_line(figures, time.perf_counter())[: shutil.get_terminal_size().columns - 1]
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)

    teller = asyncio.create_task(tell()) if live else None
    try:
        await run.run()
    finally:
        if teller is not None:
            teller.cancel()
            click.echo("\r\x1b[K", nl=False, err=True)


def _tell(
    console: Console, figures: Figures, what: str, wanted: Load, target: Target, svg: Path | None
) -> None:
    """Print the report, and write the picture."""
    from penstock.bench.report import lines
    from penstock.bench.svg import picture

    now = time.perf_counter()
    load = f"{wanted.rate:g} calls/s" if wanted.rate else f"{wanted.concurrency} callers"
    title = f"{what}, {load}, {'streamed' if target.streamed else 'whole'}"
    if console.json:
        asked = {
            "url": what.rpartition(" at ")[2],
            "path": target.path,
            "model": target.common["model"],
            "streamed": target.streamed,
            "concurrency": None if wanted.rate else wanted.concurrency,
            "rate": wanted.rate,
            "warm_up_s": wanted.warm_up_s,
        }
        print_json({"load": asked, **figures.as_json(now)})
    else:
        click.echo(printable(title))
        for text in lines(figures, now, min(screen(100).width, 100)):
            click.echo(printable(text))
    if svg is not None:
        try:
            svg.write_text(picture(figures, title, now), encoding="utf-8")
        except OSError as error:
            fail(f"{svg} cannot be written: {error.strerror}", USAGE)
        note(f"the picture is in {svg}")


bench.add_command(load)
bench.add_command(bench_fit)
