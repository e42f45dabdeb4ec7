"""``penstock batch run``: from a file of prompts to a file of answers, with one command."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import argument, option

from penstock.cli._exits import EXIT_CODES, JOB_NOT_OK, USAGE, fail, note
from penstock.cli._parse import duration, output_file
from penstock.cli._run import Console, client_command, print_json
from penstock.cli.batch_options import batch_options, making, row_options
from penstock.cli.batch_work import Ask, Run, Terminated, again, beside

if TYPE_CHECKING:
    from penstock.batch_models import Batch
    from penstock.bulk.check import Verdict


@click.command("run", epilog=EXIT_CODES)
@argument("source", metavar="[INPUT]", required=False)
@option(
    "-o",
    "--output",
    "target",
    required=True,
    type=output_file,
    metavar="FILE",
    help="Where to write the answers; - is stdout.",
)
@option(
    "--errors",
    type=output_file,
    metavar="FILE",
    help="For failed rows; default: OUTPUT with .errors before its suffix.",
)
@option(
    "--order",
    type=click.Choice(["input", "finished"]),
    default="input",
    show_default=True,
    help="Order of the rows.",
)
@option("--resume", is_flag=True, help="Resume an interrupted run; start one if there is none.")
@option("--overwrite", is_flag=True, help="Replace existing files and an unfinished run.")
@option("--embedded", is_flag=True, help="Run everything here: queue, api, worker, for this run alone.")
@option(
    "--engine", type=click.Choice(["vllm", "openai", "simulated"]), help="With --embedded.  [default: vllm]"
)
@option("--concurrency", type=click.IntRange(min=1), metavar="N", help="With --embedded: rows at once.")
@option(
    "--engine-arg", "engine_args", multiple=True, metavar="FLAG", help="With --embedded: a flag for vLLM."
)
@option("--openai-base-url", metavar="URL", help="With --embedded --engine openai: its server, with /v1.")
@batch_options
@option(
    "--patience",
    type=duration,
    default="1h",
    show_default=True,
    metavar="TIME",
    help="Wait this long for a server that does not answer.",
)
@row_options
@client_command
def run(
    console: Console,
    *,
    source: str | None,
    target: str,
    errors: str | None,
    order: str,
    resume: bool,
    overwrite: bool,
    embedded: bool,
    engine: str | None,
    concurrency: int | None,
    engine_args: tuple[str, ...],
    openai_base_url: str | None,
    window: str | None,
    priority: str | None,
    metadata: tuple[tuple[str, str], ...],
    patience: float,
    **options: Any,
) -> None:
    """Run every row of a file, and write the answers to another file.

    \b
    Examples:
      penstock batch run prompts.txt -o out.jsonl --model my-model
      penstock batch run reviews.csv -o out.jsonl --template "Summarise: {text}" --max-tokens 200
      penstock batch run papers.parquet -o out.jsonl --template-file prompt.txt --id-field doi
      penstock batch run openai-batch.jsonl -o out.jsonl
      zcat logs.gz | penstock batch run - -o out.jsonl --system "Classify the line." --temperature 0
      penstock batch run prompts.txt -o out.jsonl --embedded --model Qwen/Qwen2.5-0.5B-Instruct
      penstock batch run -o out.jsonl --resume

    INPUT is plain prompts (one a line), JSON Lines (records, or OpenAI batch rows), CSV or Parquet, optionally
    compressed with gzip; - is stdin. All of it is checked before anything is sent. Memory use hardly depends on its
    length.

    If you name no server and none answers, the run starts one here for itself, as with --embedded.

    Until the run is done, the finished rows are kept in OUTPUT.penstock/. Ctrl-C keeps them, and --resume continues:
    a batch on a server continues by itself meanwhile, an embedded one stops. OUTPUT appears as a whole at the end,
    or not at all. Exit code 1 also if single rows failed.
    """  # noqa: D301  # \b is click's mark
    if source is None and not resume:
        raise click.UsageError("name the INPUT, or - for stdin")
    made = making(**options)
    up = [] if engine is None else ["--engine", engine]
    up += [] if concurrency is None else ["--concurrency", str(concurrency)]
    up += [] if openai_base_url is None else ["--openai-base-url", openai_base_url]
    up += [f"--engine-arg={arg}" for arg in engine_args]
    if up and not embedded:
        raise click.UsageError(f"{up[0].split('=')[0]} goes with --embedded")
    from penstock.bulk.problems import InputError
    from penstock.bulk.run import Order
    from penstock.cli.batch_screen import Screen

    how = Order(window or "24h", priority, dict(metadata) or None, patience)  # type: ignore[arg-type]  # a Choice
    with ExitStack() as stack:
        to_stdout = target == "-"
        path = Path(target)
        if to_stdout:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-"))) / "out.jsonl"
        failed = path if to_stdout and errors is None else Path(errors) if errors else beside(path)
        ask = Ask(source, path, failed, order == "input", resume, overwrite, embedded, tuple(up), engine)
        try:
            with _stoppable(), Screen(events=console.events) as screen:
                batch, verdict, workdir, seconds = Run(console, ask, made, how, screen, window).go()
        except InputError as exc:
            fail(str(exc), USAGE)
        except OSError as exc:
            where = f" {exc.filename}" if exc.filename else ""
            then = "" if to_stdout else f"; then resume with: {again(ask)}"
            fail(f"cannot write{where}: {exc.strerror or exc}{then}", USAGE)
        if to_stdout:
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
    _end(console, ask, batch, verdict, workdir, seconds, to_stdout=to_stdout)


def _end(
    console: Console,
    ask: Ask,
    batch: Batch,
    verdict: Verdict,
    workdir: Path,
    seconds: float,
    *,
    to_stdout: bool,
) -> None:
    """Print the outcome, and exit."""
    usage = batch.usage
    has_errors = verdict.failed > 0 and ask.errors != ask.target
    told = {
        "event": "done",
        "batch": batch.id,
        "status": batch.status,
        **{name: value for name, value in verdict.as_dict().items() if name != "ok"},
        "verified": verdict.ok,
        "seconds": round(seconds, 3),
        "usage": usage and usage.model_dump(include={"input_tokens", "output_tokens", "total_tokens"}),
        "output": "-" if to_stdout else str(ask.target),
        "errors": str(ask.errors) if has_errors else None,
    }
    if console.events or (console.json and not to_stdout):
        print_json(told)
    else:
        tokens = f", {usage.input_tokens:,} + {usage.output_tokens:,} tokens" if usage else ""
        note(
            f"{batch.status}: {verdict.completed:,} of {verdict.total:,} rows answered, {verdict.failed:,} failed,"
            f" in {seconds:,.1f} s{tokens}"
        )
        if not to_stdout:
            note(f"  answers: {ask.target}")
        if has_errors:
            note(f"  failed:  {ask.errors}")
        if verdict.ok:
            note("  verified: every row is there, once")
    if not verdict.ok:
        from penstock.cli.batch_results import verdict_lines

        fail(
            "\n".join([f"the check failed; the received rows are in {workdir}", *verdict_lines(verdict)]),
            JOB_NOT_OK,
        )
    if verdict.failed or batch.status != "completed":
        raise SystemExit(JOB_NOT_OK)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the run as Ctrl-C does: in order, with nothing left behind."""

    def stop(signum: int, _frame: object) -> None:
        raise Terminated(signum)

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = [signal.signal(one, stop) for one in signals]
    try:
        yield
    finally:
        for one, handler in zip(signals, before, strict=True):
            signal.signal(one, handler)
