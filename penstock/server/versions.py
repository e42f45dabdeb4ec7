"""The worker processes of a version of a pool's model, from those that the settings name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jobs.rollouts import Version, base_of
from penstock.server.fleet import Part
from workers.devices.nvml import indices
from workers.devices.pools import served_name


def is_ours(version: Version, pool: str) -> bool:
    """Whether `penstock up` can start workers of a version: somebody may have switched to a pool of another name."""
    return version.pool == pool or base_of(version.pool)[0] == pool


def parts_of_version(parts: Sequence[Part], version: Version) -> list[Part]:
    """Return one pool's processes as another version of its model has them: on the same devices, under the same names.

    Args:
        parts: as the settings name them.
        version: of the same pool.
    """
    pool = parts[0].settings.pool
    if version == Version(pool):
        return list(parts)
    return [_part(part, pool, version) for part in parts]


def _part(part: Part, pool: str, version: Version) -> Part:
    settings = part.settings
    args = (*settings.engine_args, *version.engine_args)
    flags = [flag for flag in part.flags if not flag.startswith("--engine-arg=")]
    flags += [f"--engine-arg={one}" for one in args]
    if version.model is not None:
        flags.append(f"--model={version.model}")
    name = served_name(settings)
    if name is not None and settings.engine != "openai":  # clients know it by the name that it had
        flags.append(f"--served-model-name={name}")
    changes = {"pool": version.pool, "engine_args": args, "model": version.model or settings.model}
    if version.pool == pool:  # its weights were replaced in place
        return replace(part, settings=settings.model_copy(update=changes), flags=tuple(flags))
    suffix = version.pool.removeprefix(f"{pool}-")
    if "--pool" not in flags:
        flags += ["--pool", pool]
    flags += ["--pool-version", suffix, "--name", f"{_named(part)}-{suffix}"]
    if settings.metrics_port:  # the version before has it
        flags += ["--metrics-port", "0"]
    changed = settings.model_copy(update={**changes, "pool_version": suffix})
    return replace(part, name=f"{part.name}-{suffix}", settings=changed, flags=tuple(flags))


def _named(part: Part) -> str:
    if "--name" in part.flags:
        return part.flags[part.flags.index("--name") + 1]
    return part.settings.name or (f"gpu{indices(part.group).replace(',', '-')}" if part.group else "cpu")
