"""Which model suits a device, and which GPUs each pool gets. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from workers.devices.nvml import Gpu

_GB = 10**9

MODELS = (
    ("Qwen/Qwen2.5-72B-Instruct", 145.4),
    ("Qwen/Qwen2.5-32B-Instruct", 65.6),
    ("Qwen/Qwen2.5-14B-Instruct", 29.6),
    ("Qwen/Qwen2.5-7B-Instruct", 15.3),
    ("Qwen/Qwen2.5-3B-Instruct", 6.2),
    ("Qwen/Qwen2.5-1.5B-Instruct", 3.1),
    ("Qwen/Qwen2.5-0.5B-Instruct", 1.0),
)
"""Models of one family, and the GB of their weights in 16 bits. They are a beginning, and no verdict on others."""

_ROOM = 1.35
"""Memory for each byte of weights, so that a KV cache worth having fits beside them."""

_CPU_BEST = 3.2
"""The largest GB of weights that is worth trying on a CPU, whose speed it is bound by."""

_CPU_SPACE = 4
"""GB that vLLM and the rest of Penstock take on a CPU."""


@dataclass(frozen=True, slots=True)
class Place:
    """A pool: its model, and where it runs.

    Attributes:
        model: None: the tiny random model.
        gpus: indices, as the setting takes them; None: the CPU.
        group: GPUs that hold one copy together.
        shared: it takes turns with others on its GPUs.
        remark: what to know about the group; empty: nothing.
    """

    name: str
    model: str | None
    gpus: str | None = None
    group: int = 1
    shared: bool = False
    remark: str = ""


def suggested(gpus: Sequence[Gpu], memory_bytes: int) -> tuple[str | None, int]:
    """Return the largest model that fits well, and how many GPUs hold a copy; None: none fits.

    A model that needs several GPUs is taken only if all of them are alike, and none that fits one GPU has 14 billion
    parameters or more: copies on each GPU serve more calls.

    Args:
        gpus: of the machine.
        memory_bytes: free, for the case that there are none.
    """
    if not gpus:
        room = memory_bytes / _GB - _CPU_SPACE
        return _largest(min(room, _CPU_BEST * _ROOM)), 1
    one = min(gpu.memory_bytes for gpu in gpus) / _GB
    alone = _largest(one)
    alike = len({gpu.memory_bytes for gpu in gpus}) == 1
    if alike and len(gpus) > 1 and _size(alone) < _size("Qwen/Qwen2.5-14B-Instruct"):
        for group in (2, 4, 8):
            together = _largest(one * group)
            if (
                group <= len(gpus)
                and len(gpus) % group == 0
                and _size(together) > _size("Qwen/Qwen2.5-7B-Instruct")
            ):
                return together, group
    return alone, 1


def _largest(room_gb: float) -> str | None:
    return next((name for name, size in MODELS if size * _ROOM <= room_gb), None)


def _size(model: str | None) -> float:
    return known_size(model or "") or 0.0


def known_size(model: str) -> float | None:
    """Return the GB of weights of one of :data:`MODELS`, by its name or a folder of that name; None: another one."""
    names = {name.partition("/")[2]: size for name, size in MODELS}
    return names.get(model.rstrip("/").rpartition("/")[2])


def places(
    pools: Sequence[tuple[str, str]],
    gpus: Sequence[Gpu],
    sizes: Mapping[str, float] = MappingProxyType({}),
) -> list[Place]:
    """Divide the GPUs among pools, in their order: evenly, the first ones get what is left over.

    If there are more pools than GPUs, all take turns, and so have the same GPUs and groups. A group is one GPU or a power
    of two, since vLLM divides a model's heads among it.

    Args:
        pools: names and models.
        gpus: of the machine.
        sizes: the GB of weights of each model whose are known.
    """
    if not gpus:
        return [Place(name, model) for name, model in pools]
    if len(pools) > len(gpus):
        group = max(_group(sizes.get(model), gpus) for _, model in pools)
        return [_place(name, model, gpus, sizes.get(model), group, shared=True) for name, model in pools]
    each, more = divmod(len(gpus), len(pools))
    found, at = [], 0
    for number, (name, model) in enumerate(pools):
        count = each + (number < more)
        own, size = gpus[at : at + count], sizes.get(model)
        found.append(_place(name, model, own, size, _group(size, own)))
        at += count
    return found


def _group(size_gb: float | None, gpus: Sequence[Gpu]) -> int:
    """Return how many GPUs hold one copy: the least power of two that is enough, or the largest there is."""
    one = min(gpu.memory_bytes for gpu in gpus) / _GB
    group = 1
    while size_gb is not None and one * group < size_gb * _ROOM and group * 2 <= len(gpus):
        group *= 2
    return group


def _place(
    name: str, model: str, gpus: Sequence[Gpu], size_gb: float | None, group: int, *, shared: bool = False
) -> Place:
    used = gpus[: len(gpus) // group * group]
    there = min(gpu.memory_bytes for gpu in gpus) / _GB * group
    remark = ""
    if size_gb is None:
        remark = "The size of its weights is not known here. If they need several GPUs, set tensor_parallel to 2, 4 or 8."
    elif size_gb > there:
        remark = f"Its weights have {size_gb:.0f} GB, which is more than these {there:.0f} GB: take a smaller model."
    indices = ",".join(str(gpu.index) for gpu in used)
    return Place(name, model, indices, group, shared=shared, remark=remark)
