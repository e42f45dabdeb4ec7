"""What ``penstock doctor`` asks a running server, as any client can."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from penstock._version import __version__
from penstock.cli._findings import Area, Finding
from penstock.cli._table import plural
from penstock.errors import (
    APIConnectionError,
    AuthenticationError,
    NotFoundError,
    PenstockError,
    PermissionDeniedError,
)

if TYPE_CHECKING:
    from penstock.client import Penstock
    from penstock.fleet_models import Pool, Worker

T = TypeVar("T")

_AREA = Area("server")
_CLOCK_S = 2.0
_DAYS = 21
_KV_FULL = 0.95
_ADVICE = {
    "redis": "Its Redis is away or refuses it: run penstock doctor there.",
    "worker": "No worker is alive: start one (penstock worker run), or wait until it has loaded its model.",
    "coordinator": "No batch makes progress: start a coordinator (penstock coordinator).",
}


def server(client: Penstock) -> Iterator[Finding]:
    """Look at a server."""
    began = time.monotonic()
    try:
        health = client.health()
    except APIConnectionError as error:
        yield _AREA.fail(
            "reachable", str(error), "See that it runs, and that the address is right (--url, PENSTOCK_URL)."
        )
        return
    except PenstockError as error:
        yield _AREA.fail("reachable", str(error), "Is this the address of a Penstock server?")
        return
    took_ms = (time.monotonic() - began) * 1000
    yield _AREA.ok("reachable", f"{client.base_url} answers in {took_ms:.0f} ms")
    if health.ready:
        yield _AREA.ok("health", "ready: jobs that are submitted now can run")
    for name in health.missing:
        yield _AREA.fail(
            f"health {name}", health.checks.get(name, ""), _ADVICE.get(name, "Look at the api's log.")
        )
    yield from _facts(client)
    yield from _certificate(client)
    yield from _asked("workers", lambda: list(client.workers.list()), _workers)
    yield from _asked("queues", lambda: list(client.pools.list()), _queues)


def _facts(client: Penstock) -> Iterator[Finding]:
    """Look at the version and the clock, which its first page tells to anyone."""
    import httpx

    from penstock._core.http import client_args

    try:
        with httpx.Client(**client_args(_ca_file(client)), timeout=10.0) as http:
            before = time.time()
            answer = http.get(f"{client.base_url}/", headers={"accept": "application/json"})
            now = (before + time.time()) / 2
            facts: Any = answer.json()
            version = str(facts["version"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        yield _AREA.skipped("version", "it does not say")
        return
    yield _AREA.bounded(
        "version",
        f"{version}" if version == __version__ else f"{version}; this client is {__version__}",
        bad=_minor(version) != _minor(__version__),
        advice="Commands may lack what the server can, or ask for what it cannot. Update the older one.",
    )
    try:
        apart = parsedate_to_datetime(answer.headers["date"]).timestamp() + 0.5 - now
    except (KeyError, ValueError):
        return
    yield _AREA.bounded(
        "clock",
        "as this machine's, to a second"
        if abs(apart) <= _CLOCK_S
        else f"{abs(apart):.0f} s from this machine's",
        bad=abs(apart) > _CLOCK_S,
        advice="Signatures of webhooks and logins expire by the clock. Let NTP or chrony set both.",
    )


def _ca_file(client: Penstock) -> str | None:
    """Return the file of authorities that the client trusts, if one was chosen for it."""
    return client._settings.ca_file  # noqa: SLF001 - of the same package


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _certificate(client: Penstock) -> Iterator[Finding]:
    """Look how long an https server's certificate is valid."""
    parts = urlsplit(client.base_url)
    if parts.scheme != "https":
        return
    from penstock._core.http import client_args

    context: ssl.SSLContext = client_args(_ca_file(client))["verify"]
    host = parts.hostname or ""
    try:
        with (
            socket.create_connection((host, parts.port or 443), timeout=5.0) as raw,
            context.wrap_socket(raw, server_hostname=host) as tls,
        ):
            ends = ssl.cert_time_to_seconds(str((tls.getpeercert() or {})["notAfter"]))
    except (OSError, KeyError, ValueError) as error:
        yield _AREA.fail(
            "certificate",
            str(error),
            "Clients refuse it, or it is no TLS. PENSTOCK_CA_FILE names its authority.",
        )
        return
    days = (ends - time.time()) / 86_400
    yield _AREA.bounded(
        "certificate",
        f"valid for {days:.0f} days",
        bad=days < _DAYS,
        advice="Renew it; the api reads the changed files by itself.",
    )


def _asked(name: str, ask: Callable[[], T], judge: Callable[[T], Iterator[Finding]]) -> Iterator[Finding]:
    """Ask, and judge the answer. A key that may not ask is no fault of the server."""
    try:
        answer = ask()
    except AuthenticationError:
        yield _AREA.skipped(name, "the server wants a key", "Set PENSTOCK_API_KEY, or --api-key.")
    except PermissionDeniedError:
        yield _AREA.skipped(name, "this key may not ask")
    except NotFoundError:
        yield _AREA.skipped(name, "the server is too old to say")
    except PenstockError as error:
        yield _AREA.fail(name, str(error), "Look at the api's log.")
    else:
        yield from judge(answer)


def _workers(workers: list[Worker]) -> Iterator[Finding]:
    states = [worker.state for worker in workers]
    said = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "none"
    yield _AREA.bounded(
        "workers", said, bad=not workers, advice="Jobs wait until one comes: penstock worker run."
    )
    for worker in workers:
        if worker.engine_priority in {"ignored", "refused"}:
            yield _AREA.warn(
                worker.name,
                f"its engine's server has {worker.engine_priority} priorities",
                "Calls wait behind bulk inside it: start it with a priority scheduler, see docs/use/use-a-real-model.md.",
            )
        if worker.shares_storage is False:
            yield _AREA.warn(
                worker.name,
                "it has another storage of files than the api",
                "Batches and large requests cannot run there: give all processes the same files_url.",
            )
        if (worker.kv_cache_usage or 0.0) > _KV_FULL:
            yield _AREA.warn(
                worker.name,
                f"its KV cache is {worker.kv_cache_usage:.0%} full",
                "Requests are computed anew when it overflows: lower concurrency, or give it more (kv_cache_gib).",
            )


def _queues(pools: list[Pool]) -> Iterator[Finding]:
    for pool in pools:
        name = f"pool {pool.pool}"
        if pool.paused:
            yield _AREA.warn(
                name, "it is paused", f"Its jobs wait until `penstock queue resume {pool.pool}`."
            )
        elif pool.queued and not pool.slots:
            yield _AREA.warn(name, f"{pool.queued} jobs wait, and no worker serves it", "Start one for it.")
    yield _AREA.ok(
        "queues", f"{sum(pool.queued for pool in pools)} jobs wait in {plural(len(pools), 'pool')}"
    )
