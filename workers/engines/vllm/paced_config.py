"""The config of a paced engine: its constants, and a GPU's defaults although no GPU is there."""

from __future__ import annotations

from typing import Any

from workers.engines.vllm.step_cost import StepCost, of_ms

PACED = "paced"
"""Where the constants are, in milliseconds, in our part of vLLM's ``additional_config``."""

STEP_LOG = "step_log"
"""There, too: the path of the log of :mod:`workers.engines.vllm.timed_scheduler`."""

SYNCHRONOUS = "paced_synchronous"
"""There, too: true if a flag turned asynchronous scheduling off."""

_BLOCK_TOKENS = 16
"""vLLM's block size on a GPU; on a CPU it is 128."""

_TOKENS_A_SEQUENCE = 2560
"""The KV cache has room for so many tokens of each running sequence, unless its size is set."""


def as_on_a_gpu(config: Any) -> None:
    """Give a config the defaults of a GPU. It changes nothing when called again.

    vLLM turns asynchronous scheduling off on a CPU whatever its flag says, and last of all. So this comes after.
    """
    cache, scheduler = config.cache_config, config.scheduler_config
    synchronous = config.additional_config["penstock"].get(SYNCHRONOUS, False)
    scheduler.async_scheduling = config.model_config.runner_type != "pooling" and not synchronous
    if not cache.user_specified_block_size:
        cache.block_size = _BLOCK_TOKENS
    if cache.kv_cache_memory_bytes is None and cache.num_gpu_blocks_override is None:
        tokens = max(scheduler.max_num_seqs * _TOKENS_A_SEQUENCE, config.model_config.max_model_len)
        cache.num_gpu_blocks_override = -(-tokens // cache.block_size)


def cost_of(config: Any) -> StepCost:
    """Return the pace that a config holds."""
    return of_ms(*config.additional_config["penstock"][PACED])
