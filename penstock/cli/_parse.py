"""Reading what the user typed: durations, pairs, endpoints, request bodies. Pure, without slow imports."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import click

ENDPOINTS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}
"""Short names of the endpoints; the paths themselves are accepted too."""

BATCH_ENDPOINTS = {**ENDPOINTS, "responses": "/v1/responses"}
"""Those that a batch's rows may have."""

_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?"
)
_UNITS_S = (86_400, 3_600, 60, 1)


def duration(text: str) -> float:
    """Read a time such as ``90``, ``90s``, ``10m``, ``1h30m`` or ``2d`` as seconds, above 0.

    Raises:
        click.BadParameter: it is none.
    """
    found = _DURATION.fullmatch(text.strip())
    parts = found.groups() if found else ()
    seconds = sum(float(part) * unit for part, unit in zip(parts, _UNITS_S, strict=False) if part)
    if seconds <= 0 or not math.isfinite(seconds):
        msg = f"{text!r} is not a duration: write 90, 90s, 10m, 1h30m or 2d"
        raise click.BadParameter(msg)
    return seconds


def grace(text: str) -> float:
    """Read a time as :func:`duration` does, or 0 for none at all."""
    return 0.0 if text.strip() in {"0", "0s"} else duration(text)


def endpoint(text: str) -> str:
    """Read an endpoint's short name or path as its path.

    Raises:
        click.BadParameter: it is neither.
    """
    return _path(text, ENDPOINTS)


def batch_endpoint(text: str) -> str:
    """Read the endpoint of a batch's rows, likewise.

    Raises:
        click.BadParameter: it is neither.
    """
    return _path(text, BATCH_ENDPOINTS)


def _path(text: str, names: Mapping[str, str]) -> str:
    path = names.get(text, text)
    if not path.startswith("/v1/"):
        msg = f"{text!r} is not one of {', '.join(names)}, nor a path such as /v1/completions"
        raise click.BadParameter(msg)
    return path


def pair(text: str) -> tuple[str, str]:
    """Split ``key=value`` at its first equals sign.

    Raises:
        click.BadParameter: it has none, or no key.
    """
    key, sign, value = text.partition("=")
    if not sign or not key:
        msg = f"{text!r} is not key=value"
        raise click.BadParameter(msg)
    return key, value


def job_id(text: str) -> str:
    """Take a job's id as it is, but not an empty one: that is a shell variable nobody set.

    Raises:
        click.BadParameter: it is empty.
    """
    if not text.strip():
        msg = "the job id is empty"
        raise click.BadParameter(msg)
    return text


def raw_body(text: bytes) -> dict[str, Any]:
    """Read a raw OpenAI request body.

    Raises:
        click.UsageError: it is not a JSON object in UTF-8.
    """
    try:
        body = json.loads(text)
    except ValueError as exc:  # UnicodeDecodeError is one
        msg = f"--input is not JSON: {exc}"
        raise click.UsageError(msg) from exc
    if not isinstance(body, dict):
        msg = "--input must be a JSON object: the body of an OpenAI request"
        raise click.UsageError(msg)
    return body


def prompt_body(path: str, prompt: str, system: str | None) -> dict[str, Any]:
    """Make the body that asks ``prompt`` of the endpoint at ``path``.

    Raises:
        click.UsageError: the endpoint has no system message, or needs ``--input``.
    """
    if path == ENDPOINTS["chat"]:
        messages = [{"role": "system", "content": system}] if system is not None else []
        return {"messages": [*messages, {"role": "user", "content": prompt}]}
    if system is not None:
        msg = f"--system is for {ENDPOINTS['chat']} only"
        raise click.UsageError(msg)
    if path == ENDPOINTS["completions"]:
        return {"prompt": prompt}
    if path == ENDPOINTS["embeddings"]:
        return {"input": prompt}
    msg = f"give the body of {path} with --input"
    raise click.UsageError(msg)
