"""From a pace to a paced engine: the flags of ``vllm serve`` for it, and the check of the config that they make."""

from __future__ import annotations

import json
from typing import Any

import structlog

from workers.engines.base import EngineStartError
from workers.engines.vllm.paced_config import PACED, SYNCHRONOUS, as_on_a_gpu
from workers.engines.vllm.step_cost import StepCost

log = structlog.get_logger(__name__)

_EXECUTOR = "workers.engines.vllm.paced.PacedExecutor"
_STEP_TOKENS = 8192
"""vLLM's own limit of a step on a GPU of 70 GB or more."""


def flags(cost: StepCost) -> list[str]:
    """Return the flags of ``vllm serve`` that make its engine a paced one."""
    ours = json.dumps({"penstock": {PACED: list(cost.ms())}})
    return [
        f"--max-num-batched-tokens={_STEP_TOKENS}",
        f"--distributed-executor-backend={_EXECUTOR}",
        f"--additional-config={ours}",
    ]


def set_pace(config: Any, engine_args: Any, ours: dict[str, Any], cost: StepCost) -> None:
    """Make sure that a config, made by vLLM for this machine, is one for a paced engine.

    Args:
        config: vLLM's; changed.
        engine_args: what it was made from.
        ours: our part of the config's ``additional_config``; changed.
        cost: of a step.

    Raises:
        EngineStartError: the config asks for something that needs a model, or more than one device.
    """
    parallel = config.parallel_config
    if parallel.world_size > 1 or parallel.data_parallel_size > 1:
        raise EngineStartError(
            "a paced engine is one device: leave out tensor, pipeline and data parallelism, and choose a pace of the "
            "whole group (--paced)"
        )
    if config.speculative_config is not None:
        raise EngineStartError(
            "a paced engine has no model to speculate with: leave out --speculative-config"
        )
    if config.lora_config is not None:
        raise EngineStartError("a paced engine has no model to adapt: leave out --enable-lora")
    ours[PACED] = list(cost.ms())
    ours[SYNCHRONOUS] = engine_args.async_scheduling is False
    parallel.distributed_executor_backend = _EXECUTOR
    as_on_a_gpu(config)
    log.warning("engine_paced", **cost.card(), kv_cache_blocks=config.cache_config.num_gpu_blocks_override)
