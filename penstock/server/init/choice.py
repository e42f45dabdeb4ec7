"""Which model suits a device, and which GPUs each pool gets. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """

    name: str
    model: str | None
    gpus: str | None = None
    group: int = 1
    shared: bool = False


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
    return dict(MODELS).get(model or "", 0.0)


def places(pools: Sequence[tuple[str, str]], gpus: Sequence[Gpu]) -> list[Place]:
    """Divide the GPUs among pools, in their order: evenly, the first ones get what is left over.

    If there are more pools than GPUs, all take turns on all of them.

    Args:
        pools: names and models.
        gpus: of the machine.
    """
    if not gpus:
        return [Place(name, model) for name, model in pools]
    indices = [str(gpu.index) for gpu in gpus]
    if len(pools) > len(gpus):
        whole = ",".join(indices)
        return [Place(name, model, whole, len(gpus), shared=True) for name, model in pools]
    each, more = divmod(len(indices), len(pools))
    found, at = [], 0
    for number, (name, model) in enumerate(pools):
        count = each + (number < more)
        found.append(Place(name, model, ",".join(indices[at : at + count])))
        at += count
    return found
