"""Redis users, one per kind of process, each with the keys, channels and commands that it needs (Redis 7 ACL).

Redis checks the commands inside a function against the rights of the user who calls it, so these rules hold for the
functions too. The user ``default`` is off: a client without a name and a password gets nothing.

``deploy/valkey/users.acl`` is written from this table by ``tools/gen_acl.py``. Words are separated by spaces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from broker.db.keys import Keys

JOBS: Final = (
    "schema job log jobs jobs_of objects storage files_announced files_trash"
    " ended dead dead_of deadlines delayed coalesce followers idem limits uncounted"
    " reaper libraries pools pool backlog turns tags parked attached active active_bulk slots means poison affinity"
    " bell bulk_bell own_bell aliases rollout keeper"
)
WORKERS: Final = "leases worker worker_jobs worker_orders worker_adapters adapters adapted swap node"
FILES: Final = "file files files_of files_of_purpose files_by_purpose files_expiry file_was"
BATCHES: Final = (
    "batch batch_open batch_done batch_lease batches batches_of batches_active batches_parts batches_retire"
)
ACCESS: Final = "access key api_keys keys_of tenants tenant"
LEDGERS: Final = "quota usage audit"
CONVERSATIONS: Final = "conversation chats_of"
WEBHOOKS: Final = (
    "webhook webhooks webhooks_of webhooks_due webhook_counts webhook_outbox webhook_tries webhook_dead"
    " webhook_lease"
)
CHANNELS: Final = "api_channel ctl_channel look_channel"

QUEUES: Final = "queue"
"""No list of this name exists, but Celery and Flower ask how long it is."""

CONNECTION: Final = (
    "ping echo select time multi exec discard watch unwatch"
    " client|setinfo client|setname client|getname client|id"
)
PUBSUB: Final = "publish subscribe unsubscribe psubscribe punsubscribe"
FUNCTIONS: Final = "fcall function|load function|delete"
SCRIPTS: Final = "evalsha script|exists script|load"
"""For kombu, which keeps the bindings of its queues with scripts."""

DATA: Final = (
    "del unlink exists get set mget pexpire pexpireat pttl"
    " hdel hexists hget hgetall hincrby hincrbyfloat hkeys hlen hmget hscan hset hsetnx hstrlen"
    " lpush ltrim sadd scard smembers srandmember srem xadd xdel xlen xrange xrevrange xtrim"
    " zadd zcard zcount zpopmin zrange zrangebyscore zrank zrem zremrangebyscore zrevrange zrevrangebyscore zscan zscore"
)
KOMBU: Final = "del exists llen sadd srem smembers lpush rpop brpop blmpop zadd zrangebyscore zrem"
"""For Celery alone: bindings of queues, remote control and its answers."""

EARLIER: Final = "envelope queues retire jobs:state:queued jobs:state:running workers paused"
"""Keys of the version before, for which a start looks, and which it bars. To take data over needs ``SCAN``, so ``admin``."""

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
        prepares: it makes the server's data this version's before it begins (:func:`broker.migration.prepare`).
    """

    about: str
    commands: str
    writes: str = ""
    reads: str = ""
    channels: str = ""
    celery: str = ""
    extra: tuple[tuple[str, str], ...] = ()
    prepares: bool = False


ROLES: Final[Mapping[str, Role]] = {
    "api": Role(
        "the api processes",
        f"{CONNECTION} {DATA} {FUNCTIONS} {PUBSUB} eval info",
        writes=(
            f"{JOBS} {FILES} {BATCHES} {ACCESS} {LEDGERS} {CONVERSATIONS} {WEBHOOKS}"
            " tasks task worker_jobs worker_orders adapters adapted declared"
        ),
        reads="leases worker worker_adapters models served coordinators",
        channels=CHANNELS,
        # Its reaper ends leases whose time is over.
        extra=(
            ("zadd zrem", "leases"),
            ("del", "worker worker_orders worker_adapters"),
        ),
        prepares=True,
    ),
    "worker": Role(
        "the workers",
        f"{CONNECTION} {DATA} {FUNCTIONS} {SCRIPTS} {PUBSUB} eval blpop llen",
        writes=f"{JOBS} {WORKERS} {BATCHES} {LEDGERS} {CONVERSATIONS} {WEBHOOKS} models served",
        reads=f"file files tenants tenant declared {QUEUES}",
        channels=CHANNELS,
        celery=CONTROL,
        prepares=True,
    ),
    "coordinator": Role(
        "the coordinators",
        f"{CONNECTION} {DATA} {FUNCTIONS} {PUBSUB} eval",
        writes=f"{JOBS} {FILES} {BATCHES} {LEDGERS} {CONVERSATIONS} {WEBHOOKS} tasks task coordinators worker_orders",
        reads="tenants tenant leases worker worker_jobs models adapted served declared",
        channels=CHANNELS,
        prepares=True,
    ),
    "flower": Role(
        "Flower: task events, Celery's remote control",
        f"{CONNECTION} {KOMBU} {SCRIPTS} {PUBSUB}",
        reads=QUEUES,
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
        yield _selector(_patterns(keys, names), commands)
    if role.prepares:
        yield _selector((f"{keys.namespace}:{name}" for name in EARLIER.split()), "exists type smembers set")


def _selector(patterns: Iterable[str], commands: str) -> str:
    rules = *(f"~{one}" for one in patterns), *(f"+{command}" for command in commands.split())
    return f"({' '.join(['-@all', *rules])})"


def _patterns(keys: Keys, names: str) -> Iterator[str]:
    return (keys(name, "*", "*", "*") for name in names.split())
