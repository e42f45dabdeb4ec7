"""Reading what the user typed: times, pairs, endpoints, names, request bodies. Pure, without slow imports."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click import argument, option

ENDPOINTS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "rerank": "/v1/rerank",
    "score": "/v1/score",
    "classify": "/v1/classify",
    "pooling": "/v1/pooling",
}
"""Short names of the endpoints of jobs and of a batch's rows; the paths themselves are accepted too."""

_PROMPTS = {
    **{ENDPOINTS[name]: "input" for name in ("embeddings", "responses", "classify", "pooling")},
    ENDPOINTS["completions"]: "prompt",
    "/tokenize": "prompt",
}
"""For endpoints that take a plain prompt, the field that holds it."""

_SYSTEMS = {ENDPOINTS["responses"]: "instructions", ENDPOINTS["messages"]: "system"}
"""For endpoints other than chat that have a system message, the field that holds it."""

MESSAGES_TOKENS = 1024
"""Most tokens of an answer of Messages, which every request of it must bound."""

LANES = ["realtime", "high", "normal", "low", "bulk"]
"""The lanes of a pool, in the order in which they are served."""

PRIORITIES = click.Choice(LANES[1:])
"""The lanes that a job may ask for."""

_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?"
)
_UNITS_S = (86_400, 3_600, 60, 1)


def duration(text: str) -> float:
    """Read a time such as ``90``, ``90s``, ``10m``, ``1h30m`` or ``2d`` as seconds, above 0.

    Raises:
        click.BadParameter: it is not a time.
    """
    found = _DURATION.fullmatch(text.strip())
    parts = found.groups() if found else ()
    seconds = sum(float(part) * unit for part, unit in zip(parts, _UNITS_S, strict=False) if part)
    if seconds <= 0 or not math.isfinite(seconds):
        raise click.BadParameter(f"{text!r} is not a duration: write 90, 90s, 10m, 1h30m or 2d")
    return seconds


def grace(text: str) -> float:
    """Read a time as :func:`duration` does, or 0."""
    return 0.0 if text.strip() in {"0", "0s"} else duration(text)


def endpoint(text: str) -> str:
    """Read an endpoint's short name or path as its path. Raises click.BadParameter if it is neither."""
    path = ENDPOINTS.get(text, text)
    if not path.startswith("/"):
        known = ", ".join(ENDPOINTS)
        raise click.BadParameter(f"{text!r} is not one of {known}, nor a path such as /v1/completions")
    return path


def pair(text: str) -> tuple[str, str]:
    """Split ``key=value`` at its first equals sign.

    Raises:
        click.BadParameter: it has none, or no key.
    """
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise click.BadParameter(f"{text!r} is not key=value")
    return key, value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def named(what: str) -> Callable[[str], str]:
    """Return a reader that takes a name as it is, but not an empty one: that is a shell variable nobody set.

    Nor one that no path of the server can carry: a dot segment, or bytes that are no text. The reader raises
    click.BadParameter; ``what`` names the argument in its message.
    """

    def read(text: str) -> str:
        if not text.strip():
            raise click.BadParameter(f"{what} is empty")
        if text in {".", ".."} or not _is_unicode(text):
            raise click.BadParameter(f"{what} cannot be {text!r}")
        return text

    return read


def output_file(text: str) -> str:
    """Take the name of a file to write, or ``-``. Raises click.BadParameter if no file can be called so."""
    if text != "-" and Path(text).name in {"", ".."}:
        raise click.BadParameter(f"{text!r} is not the name of a file")
    return text


def prompt_on_stdin(otherwise: str = "give a PROMPT, or --input FILE") -> str:
    """Read a prompt from stdin, without the newline at its end.

    Args:
        otherwise: what to do if it is empty, for the message.

    Raises:
        click.UsageError: stdin is a terminal, is empty, or is not UTF-8.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError(f"{otherwise}, or write the prompt to stdin")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as exc:
        raise click.UsageError(f"the prompt on stdin is not UTF-8: {exc}") from exc
    if not text.strip():
        raise click.UsageError(f"{otherwise}; stdin is empty")
    return text


def raw_body(text: bytes | str, option: str = "--input") -> dict[str, Any]:
    """Read a raw request body.

    Args:
        option: where it was given.

    Raises:
        click.UsageError: it is not a JSON object in UTF-8.
    """
    try:
        body = json.loads(text)
    except ValueError as exc:  # UnicodeDecodeError is one
        raise click.UsageError(f"{option} is not JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise click.UsageError(f"{option} must be a JSON object: the body of a request")
    return body


def prompt_body(path: str, prompt: str, system: str | None) -> dict[str, Any]:
    """Make the request body that sends ``prompt`` to the endpoint at ``path``.

    Raises:
        click.UsageError: the endpoint has no system message, or needs ``--input``.
    """
    said = [{"role": "user", "content": prompt}]
    if path == ENDPOINTS["chat"]:
        messages = [{"role": "system", "content": system}] if system is not None else []
        return {"messages": [*messages, *said]}
    if system is not None and path not in _SYSTEMS:
        raise click.UsageError("--system is for chat, responses and messages only")
    spoken = {} if system is None else {_SYSTEMS[path]: system}
    if path == ENDPOINTS["messages"]:
        return {**spoken, "messages": said, "max_tokens": MESSAGES_TOKENS}
    if path not in _PROMPTS:
        raise click.UsageError(f"give the body of {path} with --input or --data")
    return {**spoken, _PROMPTS[path]: prompt}


def sampling(path: str, max_tokens: int | None, temperature: float | None) -> dict[str, Any]:
    """Return the fields of a request's sampling by the endpoint's own names; one that is None is left out."""
    limit = "max_output_tokens" if path == ENDPOINTS["responses"] else "max_tokens"
    given = {limit: max_tokens, "temperature": temperature}
    return {name: value for name, value in given.items() if value is not None}


SYSTEM = option("--system", metavar="TEXT", help="System message (chat, responses, messages).")
TEMPERATURE = option(
    "--temperature", type=click.FloatRange(min=0), help="0 always takes the likeliest token."
)
METADATA = option(
    "--metadata", type=pair, multiple=True, metavar="K=V", help="Kept with the job or batch; may be repeated."
)
JOB = argument("job_id", metavar="JOB", type=named("the job id"))
JOBS = argument("job_ids", metavar="JOB...", type=named("the job id"), nargs=-1, required=True)
FILE = argument("file_id", metavar="FILE_ID", type=named("the file id"))
FILES = argument("file_ids", metavar="FILE_ID...", type=named("the file id"), nargs=-1, required=True)
BATCH = argument("batch_id", metavar="BATCH", type=named("the batch id"))
BATCHES = argument("batch_ids", metavar="BATCH...", type=named("the batch id"), nargs=-1, required=True)
