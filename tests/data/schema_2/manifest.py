"""Writes ``manifest.json`` for ``make.py``: what the old code reads from the server that it filled."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from broker.batch_steps import BatchSteps
from broker.files import FileStore
from broker.jobs import JobStore
from jobs.lanes import Lane
from jobs.model import SCHEMA_VERSION, JobSpec
from jobs.states import JobState

POOLS = ("default", "second")


@dataclass
class Labels:
    """What was made, by label. ``popped``: the job whose message a worker popped, and did not claim."""

    jobs: dict[str, JobSpec] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    batches: dict[str, str] = field(default_factory=dict)
    popped: str = ""

    def id(self, label: str) -> str:
        return self.jobs[label].id


async def write_manifest(
    path: Path,
    store: JobStore,
    batches: BatchSteps,
    files: FileStore,
    labels: Labels,
    ends: Mapping[str, str],
    version: str,
) -> None:
    client, keys = store.client, store.keys
    names = {spec.id: label for label, spec in labels.jobs.items()}
    leases = await client.zrange(keys("workers"), 0, -1, withscores=True)
    told = {
        "made_by": "commit 8a25473",
        "schema_version": SCHEMA_VERSION,
        "server": version,
        "namespace": keys.namespace,
        "made_ms": await store.now_ms(),
        "limits": await client.hgetall(keys("limits")),
        "paused": sorted(await store.paused()),
        "models": await store.models(),
        "workers": {
            name: {
                "lease_ends_ms": int(score),
                "running": sorted(names[job] for job in await client.smembers(keys("worker_jobs", name))),
                "orders": {
                    names.get(job, job): why
                    for job, why in (await client.hgetall(keys("worker_cancels", name))).items()
                },
            }
            for name, score in leases
        },
        "popped_and_not_claimed": names[labels.popped],
        "in_own_lists": [
            names[json.loads(text)["headers"]["id"]]
            for name in await client.keys(f"{keys.namespace}.*.@*")
            for text in await client.lrange(name, 0, -1)
        ],
        "dead": [names[job] for job in await client.zrange(keys("dead"), 0, -1)],
        "delayed": [names[job] for job in await client.zrange(keys("delayed"), 0, -1)],
        "ended_without_a_worker": await client.hgetall(keys("ended")),
        "ends": ends,
        "queues": {pool: await _lanes(store, pool, names) for pool in POOLS},
        "jobs": {label: await _job(store, spec) for label, spec in labels.jobs.items()},
        "files": {label: _plain(asdict(await files.get(ident))) for label, ident in labels.files.items()},
        "files_trash": await files.trash(),
        "batches": {label: await _batch(batches, ident) for label, ident in labels.batches.items()},
    }
    path.write_text(_lines(told))


def _lines(told: dict[str, Any]) -> str:
    """Write JSON with a line for each job, file and batch."""
    parts = []
    for name, value in told.items():
        if name in {"jobs", "files", "batches"}:
            rows = ",\n  ".join(f"{_json(label)}: {_json(one)}" for label, one in value.items())
            parts.append(f"{_json(name)}: {{\n  {rows}\n }}")
        else:
            parts.append(f"{_json(name)}: {_json(value)}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value)


async def _lanes(store: JobStore, pool: str, names: Mapping[str, str]) -> dict[str, dict[str, list[str]]]:
    """Return the labels of the waiting jobs by lane and tenant, each tenant's in their order."""
    client, keys = store.client, store.keys
    lanes: dict[str, dict[str, list[str]]] = {}
    for lane in Lane:
        queue = keys("queue", pool, lane)
        tenants: dict[str, list[str]] = {}
        for job in await client.zrange(keys("window", queue), 0, -1):
            tenants.setdefault(await client.hget(keys("job", job), "tenant"), []).append(names[job])
        for key in sorted(await client.keys(keys("backlog", queue, "*"))):
            tenant = key.removeprefix(keys("backlog", queue, ""))
            tenants.setdefault(tenant, []).extend(names[job] for job in await client.zrange(key, 0, -1))
        waiting = sorted(label for labels in tenants.values() for label in labels)
        assert waiting == sorted(names[job] for job in await client.zrange(keys("queued", queue), 0, -1))
        if tenants:
            lanes[lane] = tenants
    return lanes


async def _job(store: JobStore, spec: JobSpec) -> dict[str, Any]:
    """Return what was submitted, what the record says, and what may be read of the result."""
    job = await store.get(spec.id)
    assert job is not None
    told: dict[str, Any] = {
        "spec": {f.name: getattr(spec, f.name) for f in fields(spec) if getattr(spec, f.name) != _default(f)},
        "record": {**asdict(job), "kind": type(job.phase).__name__},
    }
    if job.state.terminal:
        told["result"] = asdict(await store.result(spec.id))
    if job.stream:
        told["log"] = await store.log(spec.id, "0-0")
    if job.state is JobState.QUEUED:
        rows = await store.client.hmget(store.keys("job", spec.id), ["losses", "kills"])
        told["losses"], told["kills"] = (int(count or 0) for count in rows)
    return _plain(told)


async def _batch(batches: BatchSteps, ident: str) -> dict[str, Any]:
    batch = await batches.get(ident)
    assert batch is not None
    opened, done = await batches.chunks(ident)
    return _plain(
        {"record": asdict(batch), "open": {n: asdict(one) for n, one in opened.items()}, "done": done}
    )


def _default(of: Any) -> Any:
    return of.default_factory() if of.default_factory is not MISSING else of.default


def _plain(value: Any) -> Any:
    """Return a value as JSON has it, without fields that are None; bytes as ``{"base64": text}``."""
    if is_dataclass(value):
        value = asdict(value)
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
