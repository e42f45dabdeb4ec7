"""How long each key lasts, by the table in ``broker/db/keys.py``: a key that outlives that is a leak."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from broker.db import keys as schema
from broker.db.keys import Keys
from broker.migration import BARRED

Rule: TypeAlias = Callable[[Any, Keys, str, str], bool]
"""Whether a key may be there without a TTL. Arguments: a client, the namespace's keys, the key, its first argument."""


def check_lifetimes(client: Any, keys: Keys) -> None:
    """Fail for keys of the namespace that the schema does not know, or that should be gone, or have no TTL and should.

    Args:
        client: a synchronous :class:`redis.Redis` with decoded responses.
    """
    leaks = []
    for key in client.scan_iter(f"{keys.namespace}:*", count=1000):
        name, argument = name_of(keys, key)
        if name in FOR_GOOD or client.ttl(key) != -1:
            continue
        if name not in RULES or not RULES[name](client, keys, key, argument):
            leaks.append(key)
    assert not leaks, f"keys that should be gone, or should have a TTL: {leaks}"


def name_of(keys: Keys, key: str) -> tuple[str, str]:
    """Return the schema's name of a key, and its first argument."""
    shape = key.removeprefix(f"{keys.namespace}:")
    if shape in BARRED:
        return "schema", ""  # it belongs to that
    for name, pattern in _PATTERNS.items():
        found = re.fullmatch(pattern, shape, flags=re.DOTALL)
        if found:
            return name, found[1] if found.groups() else ""
    raise AssertionError(f"the schema does not know {key}")


def _lifetimes() -> dict[str, str]:
    """Read the schema's table: shape of a key to its lifetime."""
    found: dict[str, str] = {}
    lifetime = ""
    for shape, told in re.findall(r"^``ns:(\S+)``.*\(([^()]*)\)$", schema.__doc__ or "", flags=re.MULTILINE):
        lifetime = lifetime if told == "same" else told
        found[re.sub(r"<[^>]+>|\bP\b", "*", shape)] = lifetime
    return found


def _shape(template: str) -> str:
    return re.sub(r"@\d", "*", template.removeprefix("{ns}:"))


_KEYS = {
    name: template
    for name, template in schema._TEMPLATES.items()
    if template.startswith("{ns}:") and not name.endswith("_channel")
}
_PATTERNS = {
    name: re.sub(r"\\\*", "([^:]*)", re.escape(_shape(template))).removesuffix("([^:]*)")
    + ("(.*)" if template.endswith(("@1", "@2", "@3")) else "")
    for name, template in sorted(_KEYS.items(), key=lambda item: -len(re.sub(r"@\d", "", item[1])))
}
LIFETIMES = {name: _lifetimes()[_shape(template)] for name, template in _KEYS.items()}
FOR_GOOD = {name for name, told in LIFETIMES.items() if told in {"for good", "0 for who had some"}}


def _unfinished(client: Any, keys: Keys, _key: str, job: str) -> bool:
    return client.hget(keys("job", job), "state") in {"queued", "running"}


def _all_unfinished(client: Any, keys: Keys, key: str, _: str) -> bool:
    return all(_unfinished(client, keys, key, job) for job in client.zrange(key, 0, -1))


def _records(kind: str) -> Rule:
    """Whether each entry of an index has a record."""

    def rule(client: Any, keys: Keys, key: str, _: str) -> bool:
        members = client.smembers(key) if client.type(key) == "set" else client.zrange(key, 0, -1)
        return all(client.exists(keys(kind, *member.split(" "))) for member in members)

    return rule


def _batch_goes_on(client: Any, keys: Keys, _key: str, batch: str) -> bool:
    return client.exists(keys("batch", batch)) == 1 and client.hget(keys("batch", batch), "ended") is None


RULES: dict[str, Rule] = {
    **dict.fromkeys(("job", "log", "followers"), _unfinished),
    **dict.fromkeys(("deadlines", "delayed"), _all_unfinished),
    **dict.fromkeys(("jobs", "ended", "dead", "jobs_of", "dead_of", "chats_of"), _records("job")),
    **dict.fromkeys(
        ("files", "files_by_purpose", "files_of", "files_of_purpose", "files_expiry"), _records("file")
    ),
    **dict.fromkeys(("batches", "batches_of", "batches_active"), _records("batch")),
    **dict.fromkeys(("batch", "batch_open", "batch_done"), _batch_goes_on),
    "tasks": _records("task"),
    "objects": lambda client, keys, key, _: all(client.exists(keys("job", job)) for job in client.hkeys(key)),
    "coalesce": lambda client, keys, key, _: _unfinished(client, keys, key, client.get(key)),
    **dict.fromkeys(
        ("worker_jobs", "worker_orders"),
        lambda client, keys, _, worker: client.zscore(keys("leases"), worker) is not None,
    ),
    "audit": lambda *_: True,  # its entries leave by age
    **dict.fromkeys(("webhooks", "webhooks_of", "webhooks_due"), _records("webhook")),
    **dict.fromkeys(
        ("webhook", "webhook_outbox", "webhook_tries", "webhook_dead"),
        lambda client, keys, _, endpoint: client.exists(keys("webhook", endpoint)) == 1,
    ),
    "slots": lambda client, keys, key, _: {*client.hkeys(key)} <= {*client.zrange(keys("leases"), 0, -1)},
    **dict.fromkeys(("bell", "bulk_bell"), lambda client, _keys, key, _: client.llen(key) <= 1),
    # These the walks and the tests of files and batches check: they last until something is done.
    **dict.fromkeys(("leases", "backlog", "turns", "tags", "parked", "attached"), lambda *_: True),
    **dict.fromkeys(
        ("file", "files_announced", "files_trash", "batches_retire", "batches_parts"), lambda *_: True
    ),
}
