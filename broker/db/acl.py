"""Redis users, one per kind of process, each with the keys, channels and commands that it needs (Redis 7 ACL).

Redis checks the commands inside a script against the rights of the user who runs it, so these rules hold for the scripts
too. The user ``default`` is off: a client without a name and a password gets nothing.

``deploy/valkey/users.acl`` is written from this table by ``tools/gen_acl.py``. Words are separated by spaces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from broker.db.keys import Keys

JOBS: Final = (
    "job log jobs by_state by_model queued window backlog turns fair missing parked waiting admitted admitted_bulk"
    " queues limits paused rate affinity coalesce followers deadlines delayed dead retire idem reaper ended"
)
LANES: Final = "queue own_queue"
WORKERS: Final = "workers worker worker_jobs worker_cancels"
FILES: Final = "file files files_by_purpose files_expiry files_announced files_trash file_was"
BATCHES: Final = "batch batch_open batch_done batch_lease batches batches_active batches_parts batches_retire"
CHANNELS: Final = "api_channel ctl_channel look_channel"

CONNECTION: Final = (
    "ping echo select time multi exec discard watch unwatch"
    " client|setinfo client|setname client|getname client|id"
)
PUBSUB: Final = "publish subscribe unsubscribe psubscribe punsubscribe"
SCRIPTS: Final = "evalsha script|exists script|load"
DATA: Final = (
    "del exists get set pexpire pttl hdel hexists hget hgetall hincrby hkeys hlen hmget hset hstrlen hvals mget"
    " linsert llen lpos lpush lrange lrem rpop rpush sadd scard sismember smembers srandmember srem xadd xrange"
    " zadd zcard zcount zpopmin zrange zrangebyscore zrank zrem zremrangebyscore zrevrange zrevrangebyscore zscore"
)
KOMBU: Final = "del exists llen sadd srem smembers lpush rpop brpop blmpop zadd zrangebyscore zrem"
"""For Celery alone: bindings of queues, remote control and its answers."""

ENVELOPE: Final = "~_penstock.envelope.* ~_kombu.binding*._penstock.envelope.* ~_kombu.binding_deadlines"
"""The throwaway queue from which a process learns Celery's message, see ``broker/celery/envelope.py``."""

CONTROL: Final = (
    # The channels are those of database 0: a subscription to a pattern must name it literally.
    "~_kombu.binding* ~*celery.pidbox ~celeryev.* &/0.celeryev/* &/0.celery.pidbox"
)
"""Celery's task events and remote control."""


@dataclass(frozen=True, slots=True)
class Role:
    """The rights of one user.

    Attributes:
        about: who uses it.
        commands: what it may do with its keys and channels.
        writes: the keys that it may read and write, by their names in :mod:`broker.db.keys`.
        reads: the keys that it may only read.
        channels: its channels, by name.
        celery: Celery's keys and channels, as rules.
        extra: further commands, each for a few keys: ``(commands, keys)``.
    """

    about: str
    commands: str
    writes: str = ""
    reads: str = ""
    channels: str = ""
    celery: str = ""
    extra: tuple[tuple[str, str], ...] = ()


ROLES: Final[Mapping[str, Role]] = {
    "api": Role(
        "the api processes",
        f"{CONNECTION} {DATA} {SCRIPTS} {PUBSUB} eval info",
        writes=f"{JOBS} {LANES} {FILES} {BATCHES} tasks task worker_jobs worker_cancels envelope",
        reads="workers worker models coordinators",
        channels=CHANNELS,
        celery=ENVELOPE,
        # Its reaper ends leases whose time is over.
        extra=(("zadd zrem", "workers"), ("del", "worker worker_cancels")),
    ),
    "worker": Role(
        "the workers",
        f"{CONNECTION} {DATA} {SCRIPTS} {PUBSUB} eval brpop blmpop",
        writes=f"{JOBS} {LANES} {WORKERS} {BATCHES} models envelope",
        reads="file files",
        channels=CHANNELS,
        celery=f"{ENVELOPE} {CONTROL}",
    ),
    "coordinator": Role(
        "the coordinators",
        f"{CONNECTION} {DATA} {SCRIPTS} {PUBSUB} eval",
        writes=f"{JOBS} {LANES} {FILES} {BATCHES} tasks task coordinators worker_cancels",
        reads="workers worker worker_jobs models envelope",
        channels=CHANNELS,
    ),
    "flower": Role(
        "Flower: task events, lengths of lanes, Celery's remote control",
        f"{CONNECTION} {KOMBU} {SCRIPTS} {PUBSUB}",
        reads=LANES,
        celery=CONTROL,
    ),
    "monitoring": Role(
        "health checks, and an exporter of Redis's own metrics: no key at all",
        "ping select info dbsize client|setinfo client|setname latency|latest slowlog|len",
    ),
}
"""The one table of rights. ``tests/integration/test_redis_acl.py`` runs a whole round under it."""

ADMIN: Final = "admin"
"""A person's user, for backups and for looking: everything."""


def acl_lines(keys: Keys, password: Callable[[str], str]) -> Iterator[str]:
    """Yield the lines of an ACL file for the server's setting ``aclfile``.

    Args:
        password: gets a user's name, and returns the rule of its password, such as :func:`password_rule` makes.
    """
    yield "user default off resetkeys resetchannels -@all"
    yield f"user {ADMIN} on {password(ADMIN)} ~* &* +@all"
    for name, role in ROLES.items():
        yield f"user {name} on {password(name)} {' '.join(_rights(keys, role))}"


def password_rule(password: str) -> str:
    """Return the rule for a password: its SHA-256, as the server keeps it."""
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"


def _rights(keys: Keys, role: Role) -> Iterator[str]:
    yield "resetkeys resetchannels -@all"
    yield from (f"~{one}" for one in _patterns(keys, role.writes))
    yield from (f"%R~{one}" for one in _patterns(keys, role.reads))
    yield from (f"&{one}" for one in _patterns(keys, role.channels))
    yield from role.celery.split()
    yield from (f"+{command}" for command in role.commands.split())
    for commands, names in role.extra:
        patterns = [f"~{one}" for one in _patterns(keys, names)]
        yield f"({' '.join(['-@all', *patterns, *(f'+{command}' for command in commands.split())])})"


def _patterns(keys: Keys, names: str) -> Iterator[str]:
    return (keys(name, "*", "*") for name in names.split())
