"""Which worker processes there are to be: one for each device group of each pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from broker.sources import settings_file
from workers.devices.layout import gpus_for, groups_for
from workers.devices.nvml import DeviceStartError, Group, indices
from workers.devices.pools import (
    PoolsStartError,
    check_names,
    pool_settings,
    read_tables,
    served_name,
    worker_settings,
)
from workers.devices.swap_groups import disagreement
from workers.settings import WorkerSettings

OPTIONS = {
    "engine": "--engine",
    "model": "--model",
    "paced": "--paced",
    "served_model_name": "--served-model-name",
    "aliases": "--alias",
    "tensor_parallel": "--tensor-parallel",
    "nodes": "--nodes",
    "node_master": "--node-master",
    "concurrency": "--concurrency",
    "kv_cache_gib": "--kv-cache-gib",
    "cpu_memory_share": "--cpu-memory-share",
    "metrics_host": "--metrics-host",
    "openai_base_url": "--openai-base-url",
    "drain_timeout_s": "--drain-timeout-s",
    "engine_args": "--engine-arg",
    "pool_version": "--pool-version",
    "data_dir": "--data-dir",
    "redis_url": "--redis-url",
    "namespace": "--namespace",
}
"""Options of ``penstock worker run`` by setting, for what each process gets as we did; the layout decides on the others."""

ONE_POOL = ("model", "served_model_name", "aliases", "gpus", "tensor_parallel", "workers")
"""Settings that cannot be said on the command line for several pools."""


@dataclass(frozen=True, slots=True)
class Part:
    """One worker process.

    Attributes:
        name: of the process, for logs: ``worker``, ``worker-2``, ``worker-chat-1``.
        settings: its pool's.
        group: its GPUs; empty: the CPU.
        flags: for ``penstock worker run``.
    """

    name: str
    settings: WorkerSettings
    group: Group
    flags: tuple[str, ...]

    @property
    def place(self) -> str:
        """Where it runs, in words."""
        return f"GPU {indices(self.group)}" if self.group else "the CPU"


def parts_of_worker(overrides: Mapping[str, Any]) -> list[Part]:
    """Return the processes that ``penstock worker run`` is to start: its pool's.

    Args:
        overrides: given on the command line; they are given to each.

    Raises:
        pydantic.ValidationError: a bad setting.
        PoolsStartError: a bad table in the file, or no or an unknown pool was named.
        DeviceStartError: the devices are not there, or too small for the model.
    """
    settings = worker_settings(overrides)
    return _share_memory(_parts(settings, overrides, settings.pool if read_tables() else None, Counter()))


def parts_of_machine(
    settings: WorkerSettings, overrides: Mapping[str, Any], default_model: str | None
) -> list[Part]:
    """Return the processes that ``penstock up`` is to start: every pool's.

    Args:
        settings: the flat ones, for the case that there are no pools.
        overrides: given on the command line, for all pools.
        default_model: what the api will take for a request without a model.

    Raises:
        pydantic.ValidationError: a bad setting.
        PoolsStartError: a bad table in the file, or names and GPUs that contradict each other.
        DeviceStartError: the devices are not there, or too small for the model.
    """
    tables = read_tables()
    if not tables:
        return _share_memory(_parts(settings, overrides, None, Counter()))
    file = settings_file()
    odd = [name for name in ONE_POOL if name in overrides]
    if odd:
        msg = f"{OPTIONS.get(odd[0], '--' + odd[0])} is for one model, and {file} has the pools {', '.join(tables)}"
        raise PoolsStartError(f"{msg}: say it there")
    pools = pool_settings(tables, overrides)
    names = check_names(pools)
    known = all(served_name(one) is not None for one in pools.values())
    if default_model is not None and known and default_model not in names:
        there = ", ".join(sorted(names))
        msg = f"default_model (PENSTOCK_DEFAULT_MODEL): no pool of {file} serves {default_model!r}; there are {there}"
        raise PoolsStartError(f"bad setting {msg}")
    awake: dict[str, list[tuple[str, int]]] = {}
    for pool, one in pools.items():
        if one.swap_group is not None:
            awake.setdefault(one.swap_group, []).append((pool, one.swap_awake))
    if wrong := disagreement(awake):
        raise PoolsStartError(f"{file}: {wrong}")
    parts: list[Part] = []
    owner: dict[int, Part] = {}
    ports: Counter[int] = Counter()
    for pool, one in pools.items():
        try:
            found = _parts(one, overrides, pool, ports)
        except DeviceStartError as error:
            raise DeviceStartError(f"{file}: [pools.{pool}] {error}") from error
        for part in found:
            _take_gpus(file, part, owner)
        parts += found
    return _share_memory(parts)


def _take_gpus(file: Path, part: Part, owner: dict[int, Part]) -> None:
    """Note whose each GPU is. Only pools of one swap group may share some, and then as one group of GPUs."""
    pool = part.settings.pool
    for gpu in part.group:
        other = owner.setdefault(gpu.index, part)
        where = f"{file}: [pools.{pool}] gpus: GPU {gpu.index}"
        if other.settings.pool == pool:
            continue
        if part.settings.swap_group is None or part.settings.swap_group != other.settings.swap_group:
            hint = "give both the same swap_group, and they share it in turns"
            raise PoolsStartError(f"{where} is taken by [pools.{other.settings.pool}]; {hint}")
        if other.group != part.group:
            both = f"GPU {indices(other.group)} there and GPU {indices(part.group)} here"
            msg = f"{where} is shared with [pools.{other.settings.pool}], which has other GPUs beside it ({both})"
            raise PoolsStartError(f"{msg}: the pools of a swap group need the same gpus and tensor_parallel")


def _share_memory(parts: list[Part]) -> list[Part]:
    """Divide the machine's free memory among the workers whose engine runs on the CPU: each sizes its KV cache from it.

    Of a swap group, only those that are awake use it.
    """
    on_cpu = [part for part in parts if part.settings.engine == "vllm" and not part.group]

    groups = Counter(part.settings.swap_group for part in on_cpu)
    awake = {part.settings.swap_group: part.settings.swap_awake for part in on_cpu}
    users = sum(size if group is None else min(size, awake[group]) for group, size in groups.items())

    def shared(part: Part) -> Part:
        if part not in on_cpu:
            return part
        share = part.settings.cpu_memory_share / users
        return replace(part, flags=(*part.flags, f"--cpu-memory-share={share:.4f}"))

    return [shared(part) for part in parts] if users > 1 else parts


def _parts(
    settings: WorkerSettings, overrides: Mapping[str, Any], pool: str | None, ports: Counter[int]
) -> list[Part]:
    """Return one pool's processes. ``ports`` counts how often each metrics port was wanted: they take the next ones."""
    groups = groups_for(settings, gpus_for(settings))
    several = len(groups) > 1
    child = "worker" if pool is None else f"worker-{pool}"
    parts = []
    for n, group in enumerate(groups, 1):
        flags = ["--workers", "1"]  # whatever the file and the environment say
        if pool is not None or "pool" in overrides:
            flags += ["--pool", settings.pool.removesuffix(f"-{settings.pool_version}")]
        if group:
            flags += ["--gpus", indices(group)]
        name = settings.name or (None if group or not (several or pool) else pool or "worker")
        if name is not None:
            flags += ["--name", f"{name}-{n}" if several else name]
        if port := settings.metrics_port:
            flags += ["--metrics-port", str(port + ports[port])]
            ports[port] += 1
        flags += _as_flags(overrides)
        parts.append(Part(f"{child}-{n}" if several else child, settings, group, tuple(flags)))
    return parts


def _as_flags(overrides: Mapping[str, Any]) -> list[str]:
    """Write what was given on our command line for the command line of ``penstock worker run``."""
    flags = []
    for name, option in OPTIONS.items():
        value = overrides.get(name, ())
        flags += [f"{option}={one}" for one in (value if isinstance(value, tuple | list) else (value,))]
    return flags
