"""Waiting for a job's end within one request: how long the client wants to wait, and the wait itself."""

from __future__ import annotations

import asyncio
import math
import re
from typing import Any

from starlette.datastructures import QueryParams
from starlette.types import Scope

from api.http.asgi import header
from api.http.errors import invalid
from api.http.hangup import until_hangup
from api.http.openapi import parameter
from broker.events.hub import EventHub
from broker.events.inbox import Inbox

_PREFER_WAIT = re.compile(r'(?:^|[,;\s])wait\s*=\s*"?(\d{1,9})"?\s*(?:$|[,;])', re.IGNORECASE)


def wait_parameters(max_wait_s: float) -> list[dict[str, Any]]:
    """Describe both ways to ask for a wait for OpenAPI. ``max_wait_s``: the setting."""
    description = "Wait up to this many seconds for the end."
    return [
        parameter("header", "Prefer", "`wait=N`: wait up to N seconds for the end."),
        parameter("query", "wait", description, type="number", minimum=0, maximum=max_wait_s),
    ]


def asked_wait(scope: Scope, max_wait_s: float) -> tuple[float, str | None]:
    """Read ``?wait=N`` or ``Prefer: wait=N`` (RFC 7240 section 4.3).

    A preference is a wish: one that cannot be read is ignored, and a long one is shortened. A wrong query is refused.

    Returns:
        Seconds to wait, and the value for ``Preference-Applied`` if the header counted.

    Raises:
        ApiError: 400, the query's value is not a number from 0 to ``max_wait_s``.
    """
    query = scope.get("query_string", b"")
    if b"wait" in query:
        text = QueryParams(query).get("wait")
        if text is not None:
            return _query_wait(text, max_wait_s), None
    prefer = header(scope, b"prefer")
    found = None if prefer is None else _PREFER_WAIT.search(prefer.decode("latin-1"))
    if found is None:
        return 0.0, None
    wait_s = min(int(found[1]), math.floor(max_wait_s))
    return float(wait_s), f"wait={wait_s}"


def _query_wait(text: str, max_wait_s: float) -> float:
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = math.nan
    if not 0 <= wait_s <= max_wait_s:
        raise invalid(f"wait must be a number of seconds from 0 to {max_wait_s:g}", "wait")
    return wait_s


async def wait_for_end(hub: EventHub, job_id: str, inbox: Inbox, wait_s: float, scope: Scope) -> None:
    """Return when the job has ended, its record is gone or the time is up, whichever is first.

    ``inbox`` was registered before the job was accepted or watched.

    Raises:
        ClientGoneError: the client hung up.
    """
    try:
        with until_hangup(scope):
            async with asyncio.timeout(wait_s):
                await hub.ending(job_id, inbox)
    except (TimeoutError, LookupError):
        return  # the caller reads the record, which tells them apart
