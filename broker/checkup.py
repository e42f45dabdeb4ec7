"""Facts of a Redis server that an operator should know, for ``penstock doctor``. It writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, ResponseError
from redis.retry import Retry

from broker.db.acl import ROLES, Role
from broker.db.client import connect_sync
from broker.db.errors import StoreUnavailableError
from broker.db.keys import Keys
from broker.db.library import PREFIX, library
from jobs.model import SCHEMA_VERSION

T = TypeVar("T")

_PINGS = 50
_SETTINGS = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy", "maxclients")


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says. None: this user may not ask.

    Attributes:
        info: ``INFO``.
        config: some settings.
        user: whom this connection is logged in as; None: the server's default user, as far as the address says.
        open_to_all: whether the user ``default`` needs no password.
        round_trips_s: of pings, sorted.
        clock_ahead_s: the server's clock, less this machine's.
        libraries: names of the libraries of functions that are ours.
        schema: the version of the data; None: there is none yet.
        lacking: rights that a user lacks: its name, and what it cannot do.
        near: whether the address leads to this machine alone: a unix socket, or the loopback.
        dry_run: whether the rights of all users were tried, and not this one's alone.
    """

    info: Mapping[str, Any] | None
    config: Mapping[str, str] | None
    user: str | None
    open_to_all: bool | None
    round_trips_s: tuple[float, ...]
    clock_ahead_s: float
    libraries: tuple[str, ...] | None
    schema: int | None
    lacking: Mapping[str, tuple[str, ...]]
    dry_run: bool
    near: bool = False

    @property
    def has_library(self) -> bool:
        """Whether this version's library is loaded."""
        return self.libraries is not None and library().name in self.libraries

    @property
    def newer_schema(self) -> bool:
        """Whether a newer version of Penstock wrote the data."""
        return self.schema is not None and self.schema > SCHEMA_VERSION


def look(url: str, namespace: str) -> ServerFacts:
    """Ask a server.

    Raises:
        StoreUnavailableError: it cannot be reached, or does not let this user in.
    """
    keys = Keys(namespace)
    try:
        # redis-py's ten retries would take half a minute where nobody answers.
        with connect_sync(url, decode_responses=True, retry=Retry(NoBackoff(), 1)) as client:
            client.ping()
            trips, ahead = _times(client)
            user = _allowed(client.acl_whoami) or urlsplit(url).username
            lacking, dry_run = _lacking(client, keys, user)
            schema = _allowed(lambda: client.get(keys("schema")))
            return ServerFacts(
                info=_allowed(client.info),
                config=_allowed(lambda: _config(client)),
                user=user,
                open_to_all=_allowed(lambda: "nopass" in client.acl_getuser("default")["flags"]),
                round_trips_s=trips,
                clock_ahead_s=ahead,
                libraries=_allowed(lambda: _libraries(client)),
                schema=int(schema) if schema else None,
                lacking=lacking,
                dry_run=dry_run,
                near=_near(url),
            )
    except (RedisError, OSError) as error:
        raise StoreUnavailableError(str(error)) from error


def _near(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "unix" or parts.hostname in {"127.0.0.1", "::1", "localhost"}


def _allowed(ask: Callable[[], T]) -> T | None:
    """Ask something; None if this user may not, or this server does not know the command."""
    try:
        return ask()
    except ResponseError:  # NOPERM is one, and an unknown command
        return None


def _config(client: Redis) -> dict[str, str]:
    return {str(name): str(value) for name, value in client.config_get(*_SETTINGS).items()}


def _libraries(client: Redis) -> tuple[str, ...]:
    found: list[Any] = client.function_list(library=f"{PREFIX}*")
    names = []
    for one in found:
        fields = one if isinstance(one, dict) else dict(zip(one[::2], one[1::2], strict=False))
        names.append(str(fields["library_name"]))
    return tuple(names)


def _times(client: Redis) -> tuple[tuple[float, ...], float]:
    """Return the round trips of some pings, and how far the server's clock is ahead, by the quickest question."""
    trips = []
    for _ in range(_PINGS):
        began = time.perf_counter()
        client.ping()
        trips.append(time.perf_counter() - began)
    ahead, quickest = 0.0, float("inf")
    for _ in range(5):
        before = time.time()
        answer = _allowed(client.time)
        after = time.time()
        if answer is not None and after - before < quickest:
            quickest = after - before
            ahead = answer[0] + answer[1] / 1e6 - (before + after) / 2
    return tuple(sorted(trips)), ahead


def _lacking(client: Redis, keys: Keys, user: str | None) -> tuple[dict[str, tuple[str, ...]], bool]:
    """Return which of the rights in :data:`ROLES` users lack. An administrator can try all of them, others their own."""
    users = _allowed(client.acl_users)
    if users is not None:
        found = {
            name: _denied(lambda words, name=name: _dry(client, name, words), keys, role)  # type: ignore[misc]
            for name, role in ROLES.items()
            if name in users
        }
        return {name: missing for name, missing in found.items() if missing}, True
    if user is not None and user in ROLES:
        missing = _denied(lambda words: _tried(client, words), keys, ROLES[user])
        return ({user: missing} if missing else {}), False
    return {}, False


def _denied(may: Callable[[tuple[str, ...]], bool], keys: Keys, role: Role) -> tuple[str, ...]:
    return tuple(what for what, words in _needs(keys, role) if not may(words))


def _needs(keys: Keys, role: Role) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what a role reads, by key, and a harmless command that needs the right."""
    if "exists" not in role.commands.split():
        return
    for name in f"{role.writes} {role.reads}".split():
        key = keys(name, "doctor", "doctor", "doctor")
        yield key.replace("doctor", "*"), ("EXISTS", key)


def _dry(client: Redis, user: str, words: tuple[str, ...]) -> bool:
    try:
        answer = client.execute_command("ACL", "DRYRUN", user, *words)  # type: ignore[no-untyped-call]
    except ResponseError:
        return True  # the server does not know the command: it cannot say
    return str(answer) == "OK"


def _tried(client: Redis, words: tuple[str, ...]) -> bool:
    try:
        client.execute_command(*words)  # type: ignore[no-untyped-call]
    except NoPermissionError:
        return False
    return True
