"""``penstock submit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import click
from click import argument, option

from penstock.cli import _output as output
from penstock.cli._exits import EXIT_CODES, JOB_NOT_OK, note
from penstock.cli._names import models
from penstock.cli._parse import (
    METADATA,
    PRIORITIES,
    SYSTEM,
    TEMPERATURE,
    duration,
    prompt_body,
    prompt_on_stdin,
    raw_body,
    sampling,
)
from penstock.cli._parse import endpoint as endpoint_path
from penstock.cli._run import Console, client_command, default_model
from penstock.cli._watch import wait, watch

if TYPE_CHECKING:
    from penstock.models import JobRequest


@click.command("submit", epilog=EXIT_CODES)
@argument("prompt", required=False, metavar="[PROMPT]")
@option("-i", "--input", "source", type=click.File("rb"), metavar="FILE", help="Raw body; - is stdin.")
@option("-d", "--data", metavar="JSON", help="Raw body, as text.")
@option(
    "-m",
    "--model",
    shell_complete=models,
    help="Served name.  [env: PENSTOCK_CLIENT_MODEL; default: the first that is served]",
)
@option(
    "--endpoint",
    type=endpoint_path,
    default="chat",
    show_default=True,
    help="chat, completions, embeddings, responses, messages, rerank, score, classify, pooling.",
)
@SYSTEM
@option("--max-tokens", type=click.IntRange(min=1), help="The most tokens to generate.")
@TEMPERATURE
@option("--priority", type=PRIORITIES, help="Its lane; default: normal.")
@option("--device", metavar="WORDS", help="A device it must run on: h100, 'H100 80GB', cpu.")
@option(
    "--min-memory-gb",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    help="Memory its device must have.",
)
@option("--stream", is_flag=True, help="Then show the text as it is generated.")
@option("--wait", "waiting", is_flag=True, help="Then wait for the result.")
@option("--timeout", type=duration, metavar="TIME", help="With --wait: stop waiting after, for example, 5m.")
@METADATA
@option("--expires-in", "expires_in_s", type=duration, metavar="TIME", help="Expire after, for example, 10m.")
@option(
    "--queue-timeout",
    "queue_timeout_s",
    type=duration,
    metavar="TIME",
    help="Expire if not started by then.",
)
@option(
    "--run-timeout", "timeout_s", type=duration, metavar="TIME", help="Run time of one attempt, such as 2m."
)
@option("--max-attempts", type=click.IntRange(1, 10), help="Attempts when workers are lost.")
@option(
    "--affinity-key",
    metavar="KEY",
    help="Prefer the worker that ran this key last, whose cache is warm.",
)
@option("--coalesce", is_flag=True, help="Share the run of an identical, deterministic job of yours.")
@option("--no-store", is_flag=True, help="Have the server drop it once its result was fetched.")
@option("--webhook", "webhook_url", metavar="URL", help="Where its end is told; see penstock webhooks.")
@option("--idempotency-key", metavar="KEY", help="The same key never runs a job twice.")
@client_command
def submit(
    console: Console,
    *,
    prompt: str | None,
    source: BinaryIO | None,
    data: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    device: str | None,
    min_memory_gb: float | None,
    stream: bool,
    waiting: bool,
    timeout: float | None,
    metadata: tuple[tuple[str, str], ...],
    no_store: bool,
    idempotency_key: str | None,
    **options: Any,
) -> None:
    """Submit a job: a prompt, or a raw OpenAI request.

    \b
    Examples:
      penstock submit "Why is the sky blue?" --stream
      penstock submit "Summarise: ..." --wait --max-tokens 200 --temperature 0
      penstock submit "Hello" --priority high --metadata run=7 --expires-in 10m
      penstock submit "Hello" --wait --timeout 5m
      penstock submit "Hello" --queue-timeout 30s --run-timeout 2m
      penstock submit "Hello" --device h100 --min-memory-gb 40
      penstock submit --input request.json --wait
      penstock submit --input turn7.json --affinity-key chat-42
      penstock submit "Summarise: ..." --temperature 0 --coalesce --wait
      penstock submit "Of no concern to others" --no-store --wait
      echo "Why is the sky blue?" | penstock submit --wait --text
      generate | penstock submit --input - --endpoint completions
      penstock submit "a sentence" --endpoint embeddings --wait --json
      penstock submit --endpoint rerank -d '{"query": "water", "documents": ["river", "stone"]}' --wait --json

    Without PROMPT, --input and --data, or with - as PROMPT, the prompt is read from stdin.

    A job has up to three time limits: --expires-in for its whole life and --queue-timeout for the time to its
    start (a job past either one expires), and --run-timeout for the run time of one attempt (a job past it fails).
    --timeout limits only how long this command waits: the job continues.

    Without --stream or --wait it prints the accepted job and returns: see penstock jobs wait, stream and get.
    """  # noqa: D301  # \b is click's mark
    if [prompt, source, data].count(None) < 2:
        raise click.UsageError("give one of PROMPT, --input FILE and --data JSON")
    if stream and waiting:
        raise click.UsageError("give either --stream or --wait")
    if timeout is not None and not waiting:
        raise click.UsageError(
            "--timeout goes with --wait; to limit the job itself, use --run-timeout or --expires-in"
        )
    # What is left of the options are fields of a job by their names.
    fields: JobRequest = {**options}  # type: ignore[typeddict-item]
    body = _body(fields["endpoint"], prompt, source, data, system)
    body |= sampling(fields["endpoint"], max_tokens, temperature)
    placement = {"device": device, "min_memory_gb": min_memory_gb}
    placement = {name: value for name, value in placement.items() if value is not None}
    with console.client() as client:
        body["model"] = fields.pop("model") or body.get("model") or default_model(client)
        fields |= {"stream": stream or None, "metadata": dict(metadata) or None}
        fields["store"] = False if no_store else None
        fields["placement"] = placement or None  # type: ignore[typeddict-item]
        job = client.submit(body, idempotency_key=idempotency_key, **fields)
        if stream or waiting:  # otherwise they are in the answer
            for warning in job.warnings:
                note(f"warning: {warning.message}")
        if stream:
            watch(console, client, job.id)
        elif waiting:
            if not wait(console, client, job.id, timeout):
                raise SystemExit(JOB_NOT_OK)
        else:
            console.show(job, output.job_panel)
            if not console.json:
                note(f"penstock jobs wait {job.id}   # its result\npenstock jobs cancel {job.id}   # its end")


def _body(
    path: str, prompt: str | None, source: BinaryIO | None, data: str | None, system: str | None
) -> dict[str, Any]:
    """Return the request's body, from whichever of the three was given.

    Raises:
        click.UsageError: several were given, or what was given is no body.
    """
    if [prompt, source, data].count(None) < 2:
        raise click.UsageError("give one of PROMPT, --input FILE and --data JSON")
    if source is None and data is None:
        if prompt is not None and not prompt.strip():
            raise click.UsageError("the PROMPT is empty")
        return prompt_body(path, (prompt_on_stdin() if prompt in {None, "-"} else prompt) or "", system)
    if system is not None:
        raise click.UsageError("--system goes with a PROMPT; with --input or --data, write it into the body")
    if source is not None:
        return raw_body(source.read())
    return raw_body(data or "", "--data")
