"""The reference page on failure codes, from their table."""

from __future__ import annotations

from tools.markdown import code, generated, table

_FAILURES_INTRO = """\
A job in the state `failed` has exactly one of these codes in `error.code`. The set is closed. A synchronous
caller gets the HTTP status and the type of the table, or, if the engine itself refused, the engine's own status and
words, in OpenAI's shape.

*Retryable* means that another attempt may succeed. Penstock tries such a job again, until it has lost
`max_attempts` attempts: see [retries](../use/retries-and-dead-jobs.md#automatic-retries)."""

_FAILURES_OUTRO = """\
A job that was cancelled, or whose deadline passed, is not `failed`: its state is `cancelled` or `expired`. The
codes of requests that were refused before they became a job are in [the HTTP API](http-api.md)."""


def failure_codes_page() -> str:
    """Return the page on failure codes."""
    from jobs.failures import FAILURES

    rows = [
        (
            code(key.value),
            str(info.http_status),
            code(info.error_type),
            "yes" if info.retryable else "no",
            info.sentence,
        )
        for key, info in FAILURES.items()
    ]
    header = ("code", "HTTP status", "type", "retryable", "meaning")
    return generated(
        "Failure codes", "jobs/failures.py", _FAILURES_INTRO, table(header, rows), _FAILURES_OUTRO
    )
