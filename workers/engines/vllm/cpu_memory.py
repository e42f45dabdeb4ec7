"""The KV cache on a CPU: sized from the memory that is free.

vLLM's own default there is 92 % of all memory, less what the engine uses. It refuses to start when that much is not
free, and it touches every byte of the cache at the start.
"""

from __future__ import annotations

import os
from typing import Any

import structlog

from workers.devices.weights import flag, parameter_count, weights_bytes
from workers.engines.base import EngineStartError
from workers.engines.settings import VllmSettings

log = structlog.get_logger(__name__)

WORK_SPACE = 2 << 30
"""Bytes of each engine process beside weights and KV cache: libraries, activations, compilation."""

SMALLEST = 256 << 20
"""Bytes of the smallest KV cache that is tried."""

KV_SPACE = "VLLM_CPU_KVCACHE_SPACE"
"""vLLM's older setting for the same; where it is set, it decides."""


def kv_cache_bytes(free: int, weights: int, *, ranks: int, cached: int = 0) -> int:
    """Return the size of one rank's KV cache: half of what the weights and the work space leave free.

    Args:
        free: bytes of memory that the engine may count on.
        weights: bytes of the model's weights, all ranks together; 0 if that is not known.
        ranks: processes that hold a part or a copy of the model.
        cached: bytes of files that count as used memory while the model loads, as they do under a cgroup's limit.
    """
    spare = free - weights - ranks * WORK_SPACE
    return max(min(spare // 2, spare - cached) // ranks, SMALLEST)


def fit(engine_args: Any, settings: VllmSettings) -> None:
    """Let the context length follow the KV cache: a model whose full context does not fit gets a shorter one.

    Only on a CPU, and only where neither the size of the cache nor the length is set. Changes ``engine_args``.
    """
    if _is_ours(engine_args, settings) and engine_args.max_model_len is None:
        engine_args.max_model_len = _AUTO


def size(config: Any, engine_args: Any, settings: VllmSettings) -> None:
    """Set the size of the KV cache in vLLM's config, on a CPU, unless a flag or the environment sets it.

    Raises:
        EngineStartError: the weights alone are larger than the free memory.
    """
    if not _is_ours(engine_args, settings):
        return
    free, limited = _free_bytes()
    parallel = config.parallel_config
    ranks = parallel.world_size * parallel.data_parallel_size
    weights = _weights(config, settings) * parallel.data_parallel_size
    free = int(free * settings.cpu_memory_share)
    if weights > free:
        raise EngineStartError(
            f"the weights of {settings.model} need {gib(weights)} of memory, and {gib(free)} are free: free some, or "
            "choose a smaller or a quantised model"
        )
    chosen = kv_cache_bytes(free, weights, ranks=ranks, cached=weights if limited else 0)
    config.cache_config.kv_cache_memory_bytes = chosen
    log.info("kv_cache_sized", kv_cache=gib(chosen), free=gib(free), weights=gib(weights), ranks=ranks)


def gib(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / (1 << 30):.1f} GiB"


_AUTO = -1
"""vLLM's value of ``max_model_len`` for: as much as fits."""


def _is_ours(engine_args: Any, settings: VllmSettings) -> bool:
    """Whether this is a CPU, and nobody has said how much memory vLLM may take."""
    from vllm.platforms import current_platform

    return (
        current_platform.is_cpu()
        and settings.paced is None
        and engine_args.kv_cache_memory_bytes is None
        and engine_args.gpu_memory_utilization == type(engine_args).gpu_memory_utilization
        and flag(settings.extra_args, "--gpu-memory-utilization") is None
        and not os.environ.get(KV_SPACE)
    )


def _free_bytes() -> tuple[int, bool]:
    """Return the free memory as vLLM's own checks count it, and whether a cgroup limits it."""
    from vllm.utils import cpu_resource_utils as resources

    node = resources.get_memory_node_info(resources.get_allowed_cpu_list()[0].numa_node)
    limit = resources.get_cgroup_memory_limit()
    return node.available_memory, limit is not None and limit <= node.total_memory


def _weights(config: Any, settings: VllmSettings) -> int:
    """Return the bytes of one copy of the weights, a draft model's too; 0 if that cannot be told before they are loaded."""
    speculative = config.speculative_config
    draft = None if speculative is None or speculative.method != "draft_model" else speculative.model
    return _own_weights(config, settings) + ((draft and weights_bytes(draft)) or 0)


def _own_weights(config: Any, settings: VllmSettings) -> int:
    stored = weights_bytes(settings.model, settings.argv())
    if stored is not None:
        return stored
    if config.model_config.quantization:
        return 0
    count = parameter_count(config.model_config.hf_config.to_dict())
    return 0 if count is None else count * config.model_config.dtype.itemsize
