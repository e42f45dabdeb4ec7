"""``penstock up``: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

from api.settings import ApiSettings
from broker.db.client import connect, ping
from broker.db.errors import StoreError
from broker.jobs import JobStore
from coordinator.settings import CoordinatorSettings
from penstock.server.address import announced
from penstock.server.child import ChildSpec
from penstock.server.errors import UpStartError
from penstock.server.first_key import FirstKey, Secrets, first_key
from penstock.server.fleet import Part, parts_of_machine
from penstock.server.leases import end_lease, end_leases_of_the_dead, until_alive, until_coordinated
from penstock.server.logs import LogLimits, follow
from penstock.server.plan import Plan
from penstock.server.ports import claim_port, http_address, reachable
from penstock.server.profiles import apply
from penstock.server.rollout import PoolRollouts, followed
from penstock.server.screen import Screen
from penstock.server.settings import UpSettings
from penstock.server.signals import on_signals
from penstock.server.supervisor import ChildEndedError, StoppedError, Supervisor
from penstock.server.valkey import EmbeddedServer

_PROBE_EVERY_S = 0.25
_PROBE_TIMEOUT_S = 5.0


def run_up(overrides: dict[str, Any], *, verbose: bool = False) -> None:
    """Start everything and serve until SIGINT or SIGTERM; then stop everything and return.

    Args:
        overrides: settings given on the command line; the rest comes from the environment and the files.
        verbose: show the children's logs on the terminal too.

    Raises:
        pydantic.ValidationError: a bad setting.
        PoolsStartError: a bad table in ``penstock.toml``.
        DeviceStartError: devices are not there, or too small.
        UpStartError: a port is taken, or a process did not come up. Nothing is left running.
        EmbeddedStartError: the embedded server cannot start.
        KeyFileStartError: a file of keys cannot be read or written.
    """
    apply(UpSettings(**overrides).profile, overrides)
    settings = UpSettings(**overrides)
    settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
    CoordinatorSettings()  # a bad one stops the start here, before a process runs, as one of the api's does
    api = ApiSettings(
        host=settings.host, without_keys=settings.without_keys, require_keys=settings.require_keys
    )
    parts = parts_of_machine(settings, overrides, api.default_model)
    grace_s = api.shutdown_grace_s if "shutdown_grace_s" in api.model_fields_set else None
    asyncio.run(_up(settings, parts, grace_s, Secrets.of(api, settings.data_dir), verbose=verbose))


async def _up(
    settings: UpSettings, parts: Sequence[Part], api_grace_s: float | None, keys: Secrets, *, verbose: bool
) -> None:
    screen = Screen()
    supervisor = Supervisor(screen.line, LogLimits(settings.log_max_bytes, settings.log_backups))
    on_signals(supervisor.request_stop)
    embedded: EmbeddedServer | None = None
    try:
        async with AsyncExitStack() as stack:
            plan = replace(_plan(settings, parts, api_grace_s), pepper=keys.kept)
            embedded = plan.embedded
            stack.enter_context(
                announced(
                    settings.data_dir, http_address(reachable(settings.host), plan.port, settings.scheme)
                )
            )
            screen.table(plan)
            if verbose:
                for name in ("redis", "api", "coordinator", *(part.name for part in parts), "flower"):
                    path = plan.logs / ("valkey.log" if name == "redis" else f"{name}.log")
                    task = asyncio.create_task(follow(path, name, screen.line))
                    stack.callback(task.cancel)
            first, rollouts = await _start(supervisor, plan, screen, keys)
            screen.ready(http_address(settings.host, plan.port, settings.scheme))
            if first is not None:
                screen.admin_key(first)
            async with followed(rollouts):
                await supervisor.supervise(partial(_serving, plan))
    except (ChildEndedError, StoreError) as error:
        raise UpStartError(str(error)) from error
    except StoppedError:
        pass  # asked for: no failure
    finally:
        screen.stopping(max(part.settings.drain_timeout_s for part in parts))
        await supervisor.stop()
        if embedded is not None:
            embedded.release()
    screen.line("stopped")


def _plan(settings: UpSettings, parts: Sequence[Part], api_grace_s: float | None) -> Plan:
    """Check what can be checked before anything runs, and prepare the embedded server."""
    port = claim_port(settings.host, settings.port, "the api", "--port")
    flower_port = None
    if settings.flower:
        option = "--flower-port, or go without: --no-flower"
        flower_port = claim_port("127.0.0.1", settings.flower_port, "Flower", option)
        if flower_port == port:
            raise UpStartError(f"the api and Flower cannot share port {port}; name another with {option}")
    embedded = None
    redis_url = settings.redis_url
    if settings.own_redis:
        embedded = EmbeddedServer(settings.data_dir)
        embedded.prepare()
        redis_url = embedded.url
    return Plan(settings, redis_url, embedded, port, flower_port, parts, api_grace_s)


async def _start(
    supervisor: Supervisor, plan: Plan, screen: Screen, keys: Secrets
) -> tuple[FirstKey | None, list[PoolRollouts]]:
    """Start the processes. Return the administrator's key, if keys are required, and what carries out rollouts."""
    server = plan.redis()
    if server is not None and plan.embedded is not None:
        await supervisor.start(server)
        answers = asyncio.to_thread(plan.embedded.wait_ready, lambda: supervisor.exit_status("redis"))
        await supervisor.during_start(answers)
        await supervisor.during_start(end_leases_of_the_dead(plan.redis_url, plan.settings))
    else:
        await supervisor.during_start(asyncio.to_thread(ping, plan.redis_url))
    first: FirstKey | None = None
    if keys.pepper is not None:
        first = await first_key(plan.redis_url, plan.settings, keys.pepper)

    async def ended(pid: int) -> None:
        await end_lease(plan.redis_url, plan.settings, pid)

    def alive(names: Sequence[str], until: Callable[..., Awaitable[None]]) -> Awaitable[None]:
        return until(plan.redis_url, plan.settings, lambda: supervisor.awaited(names), supervisor.mark_ready)

    rollouts = _rollouts(supervisor, plan, screen, lambda part: plan.worker(part, ended))
    as_configured = plan.settings.as_configured
    parts = [part for one in rollouts for part in await one.begin(as_configured=as_configured)]
    workers = [plan.worker(part, ended) for part in parts]
    for spec in (plan.api(), plan.coordinator(ended), *workers, plan.flower()):
        if spec is not None:
            await supervisor.start(spec)
    with screen.waiting() as waiting:
        # Ready means one of the workers, and we say it of all. The api looks again when it is asked again, and knows
        # them all.
        leased = asyncio.ensure_future(alive([part.name for part in parts], until_alive))
        try:
            await supervisor.during_start(_until_ready(plan, waiting))
            flower = [] if plan.flower_port is None else ["flower"]
            supervisor.mark_ready(supervisor.awaited(["api", *flower]))
            waiting("coordinator")
            process = "api" if plan.settings.coordinator_in_api else "coordinator"
            await supervisor.during_start(alive([process], until_coordinated))
            waiting("worker")
            await supervisor.during_start(leased)
        finally:
            leased.cancel()
        await supervisor.during_start(_until_ready(plan, waiting))
    return first, rollouts


def _rollouts(
    supervisor: Supervisor, plan: Plan, screen: Screen, spec_of: Callable[[Part], ChildSpec]
) -> list[PoolRollouts]:
    """Make what carries out the rollouts of each pool."""
    drain_s = plan.settings.rollout_drain_s

    def store() -> JobStore:
        return JobStore(connect(plan.redis_url), plan.settings)

    pools = groupby(plan.parts, key=lambda part: part.settings.pool)
    return [PoolRollouts(store(), list(of), supervisor, spec_of, screen.line, drain_s) for _, of in pools]


async def _until_ready(plan: Plan, waiting: Callable[[str], None]) -> None:
    """Wait until the api says that it can run jobs, and Flower listens."""
    while True:
        missing = await asyncio.to_thread(_missing, plan)
        if not missing:
            break
        waiting(missing)
        await asyncio.sleep(_PROBE_EVERY_S)
    while plan.flower_port is not None and not await asyncio.to_thread(
        _listens, "127.0.0.1", plan.flower_port
    ):
        waiting("flower")
        await asyncio.sleep(_PROBE_EVERY_S)


async def _serving(plan: Plan, name: str, pid: int) -> None:
    """Wait until a process that was started again does its work."""
    if name == "api":
        await _until(lambda: _missing(plan) != "api")
    elif name == "flower":
        await _until(lambda: _listens("127.0.0.1", plan.flower_port or 0))
    else:
        until = until_coordinated if name == "coordinator" else until_alive
        pids = (
            set() if name == "redis" else {pid}
        )  # nobody's lease is asked for: it is enough that it answers
        await until(plan.redis_url, plan.settings, lambda: pids, lambda _: None)


async def _until(true: Callable[[], bool]) -> None:
    """Look in a thread until it is true."""
    while True:
        if await asyncio.to_thread(true):
            return
        await asyncio.sleep(_PROBE_EVERY_S)


def _connection(plan: Plan) -> http.client.HTTPConnection:
    """Return a connection to our own api. Its certificate is for its clients' names, not for this address."""
    host = reachable(plan.settings.host)
    if plan.settings.tls_cert_file is None:
        return http.client.HTTPConnection(host, plan.port, timeout=_PROBE_TIMEOUT_S)
    context = ssl._create_unverified_context()  # noqa: S323, SLF001 - see above
    return http.client.HTTPSConnection(host, plan.port, timeout=_PROBE_TIMEOUT_S, context=context)


def _missing(plan: Plan) -> str:
    """Ask ``/health/ready`` what is missing; the empty string when nothing is.

    An api that wants certificates of its clients answers us nothing. Then it is enough that it listens: the leases of the
    other processes tell the rest.
    """
    if plan.settings.tls_client_ca_file is not None:
        return "" if _listens(reachable(plan.settings.host), plan.port) else "api"
    try:
        with closing(_connection(plan)) as connection:
            connection.request("GET", "/health/ready")
            answer = connection.getresponse()
            body = answer.read()
        return "" if answer.status == 200 else ", ".join(json.loads(body)["missing"]) or "api"
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return "api"  # not listening yet, or not saying what it lacks: asked again in a moment


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False
