"""What the facts of a Redis server mean for Penstock. Pure, except for :func:`look_at`."""

from __future__ import annotations

from collections.abc import Iterator

from broker.checkup import ServerFacts, look
from broker.db.errors import StoreUnavailableError
from broker.db.urls import without_password
from broker.settings import BrokerSettings
from penstock.cli._findings import Area, Finding

_AREA = Area("redis")
_OLDEST = (7, 0)
_SLOW_S = 0.005
_CLOCK_S = 1.0
_CLOCK_FAIL_S = 10.0
_FULL, _VERY_FULL = 0.8, 0.95
_LACKING_SHOWN = 5


def look_at(url: str, settings: BrokerSettings, *, embedded: bool) -> Iterator[Finding]:
    """Look at the server.

    Args:
        url: its address.
        embedded: it is the one that ``penstock up`` brings.
    """
    shown = without_password(url)
    try:
        facts = look(url, settings.namespace)
    except StoreUnavailableError as error:
        yield _AREA.fail(
            "reachable",
            f"{shown}: {error}",
            "No process of Penstock works without it. See that the server runs, that the address, the password and the"
            " user are right (redis_url, redis_password), and that nothing between blocks the port.",
        )
        return
    yield _AREA.ok("reachable", f"{shown}{' (embedded)' if embedded else ''}, as {facts.user or 'default'}")
    yield from judged(facts, settings, embedded=embedded)


def judged(facts: ServerFacts, settings: BrokerSettings, *, embedded: bool) -> Iterator[Finding]:
    """Yield what the facts mean."""
    yield from _version(facts)
    yield from _persistence(facts)
    yield from _memory(facts)
    yield from _clients(facts)
    yield _latency(facts)
    yield _clock(facts)
    yield _functions(facts)
    if facts.newer_schema:
        yield _AREA.fail(
            "data",
            f"a newer version of Penstock wrote the data (version {facts.schema})",
            f"Update Penstock here, or choose another namespace than {settings.namespace}.",
        )
    yield from _rights(facts, near=embedded or facts.near)


def _version(facts: ServerFacts) -> Iterator[Finding]:
    info = facts.info
    if info is None:
        yield _AREA.skipped(
            "version", "this user may not ask (INFO)", "Run it once as the user admin or monitoring."
        )
        return
    product = "valkey" if "valkey_version" in info else "redis"
    version = str(info[f"{product}_version"])
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    yield _AREA.bounded(
        "version",
        f"{product} {version}",
        bad=False,
        worse=product == "redis" and numbers < _OLDEST,
        advice="Penstock needs Redis 7.0 or Valkey 8: it runs functions.",
    )
    yield _AREA.bounded(
        "kind",
        f"{info.get('redis_mode', 'standalone')}, {info.get('role', 'master')}",
        bad=False,
        worse=info.get("redis_mode") == "cluster" or info.get("role") == "slave",
        advice="Name one server, or Sentinel (sentinel://): a replica takes no writes, and Redis Cluster is not supported.",
    )


def _persistence(facts: ServerFacts) -> Iterator[Finding]:
    info, config = facts.info, facts.config or {}
    if info is None:
        return
    if not int(info.get("aof_enabled", 0)):
        yield _AREA.fail(
            "persistence",
            "appendonly is off",
            "A restart of the server loses every job since its last snapshot, also those that were answered 202. Set"
            " appendonly yes and appendfsync always.",
        )
    elif (sync := config.get("appendfsync")) not in {None, "always"}:
        yield _AREA.warn(
            "persistence",
            f"appendonly, appendfsync {sync}",
            "A power cut loses the last second of accepted jobs (a crash of the server alone does not). Set appendfsync"
            " always.",
        )
    else:
        said = (
            "appendonly, appendfsync always" if sync else "appendonly; this user may not ask for appendfsync"
        )
        yield _AREA.ok("persistence", said)
    if info.get("aof_last_write_status", "ok") != "ok":
        yield _AREA.fail(
            "last write",
            "the server could not write its append-only file",
            "It refuses writes until it can. Look at its log: most often its disk is full.",
        )
    if int(info.get("loading", 0)):
        yield _AREA.warn("loading", "it is reading its data", "Calls are refused until that is done.")


def _memory(facts: ServerFacts) -> Iterator[Finding]:
    info = facts.info
    if info is None:
        return
    policy = str(info.get("maxmemory_policy", ""))
    yield _AREA.bounded(
        "eviction",
        policy,
        bad=False,
        worse=policy != "noeviction",
        advice="The server may delete jobs when its memory is full. Set maxmemory-policy noeviction.",
    )
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    total = int(info.get("total_system_memory", 0))
    if not most:
        share = used / total if total else 0.0
        yield _AREA.bounded(
            "memory",
            f"{_mib(used)} used, no maxmemory",
            bad=share > 0.5,
            advice=f"It uses {share:.0%} of its machine's memory, and nothing bounds it. Set maxmemory; keep results for"
            " less time (retention_s).",
        )
        return
    yield _AREA.bounded(
        "memory",
        f"{_mib(used)} of {_mib(most)} used",
        bad=used > _FULL * most,
        worse=used > _VERY_FULL * most,
        advice="When it is full, jobs are refused (503). Raise maxmemory, or keep results for less time (retention_s).",
    )


def _clients(facts: ServerFacts) -> Iterator[Finding]:
    info = facts.info
    if info is None or "maxclients" not in info:
        return
    used, most = int(info.get("connected_clients", 0)), int(info["maxclients"])
    yield _AREA.bounded(
        "connections",
        f"{used} of {most}",
        bad=used > _FULL * most,
        advice="Each process of Penstock needs up to 40. Raise maxclients, and the server's limit of open files.",
    )


def _latency(facts: ServerFacts) -> Finding:
    trips = facts.round_trips_s
    middle, tail = trips[len(trips) // 2], trips[int(len(trips) * 0.98)]
    return _AREA.bounded(
        "latency",
        f"a round trip takes {middle * 1000:.2f} ms, {tail * 1000:.2f} ms at worst",
        bad=middle > _SLOW_S,
        advice="A call makes several round trips. Put Redis and Penstock into one zone; look for a loaded server (SLOWLOG).",
    )


def _clock(facts: ServerFacts) -> Finding:
    apart = abs(facts.clock_ahead_s)
    way = "ahead of" if facts.clock_ahead_s > 0 else "behind"
    return _AREA.bounded(
        "clock",
        "as this machine's" if apart < 0.1 else f"{apart:.1f} s {way} this machine's",
        bad=apart > _CLOCK_S,
        worse=apart > _CLOCK_FAIL_S,
        advice="Deadlines and leases count by Redis's clock, keys and logins by this one. Let NTP or chrony set both.",
    )


def _functions(facts: ServerFacts) -> Finding:
    if facts.libraries is None:
        return _AREA.skipped("functions", "this user may not list them")
    if facts.has_library:
        others = len(facts.libraries) - 1
        return _AREA.ok(
            "functions",
            "this version's are loaded" + (f", beside {others} other versions'" if others else ""),
        )
    if facts.libraries:
        return _AREA.warn(
            "functions",
            "only those of other versions are loaded",
            "Processes of another version run, or ran. Those of this version load their own; update all of them.",
        )
    return _AREA.ok("functions", "none yet; the first process loads them")


def _rights(facts: ServerFacts, *, near: bool) -> Iterator[Finding]:
    if facts.open_to_all and not near:
        yield _AREA.warn(
            "access",
            "anyone who reaches the server may do everything: the user default has no password",
            "Who can write to Redis can read each prompt and change each job. Give it users (deploy/valkey/users.acl, see"
            " docs/security.md), or a password, and let only Penstock's machines reach it.",
        )
    for user, missing in facts.lacking.items():
        shown = ", ".join(missing[:_LACKING_SHOWN])
        more = f" and {len(missing) - _LACKING_SHOWN} more" if len(missing) > _LACKING_SHOWN else ""
        yield _AREA.fail(
            "rights",
            f"the user {user} may not use {shown}{more}",
            "Its calls are refused. Give Redis this version's users: tools/gen_acl.py writes deploy/valkey/users.acl.",
        )
    if not facts.lacking and facts.dry_run and not facts.open_to_all:
        yield _AREA.ok("rights", "each user of Penstock has its keys")


def _mib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"
