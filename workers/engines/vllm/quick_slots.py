"""Answers the question for KV cache that nearly every sequence asks in every step: none is needed. In the engine process.

A sequence that decodes needs a block every 16 tokens or so. vLLM goes the whole way for each token: a quarter of the work
of a step with 190 sequences. For a model with full attention alone the answer is two look-ups.
"""

from __future__ import annotations

import inspect
from typing import Any

_ALLOCATE = [
    "request",
    "num_new_tokens",
    "num_new_computed_tokens",
    "new_computed_blocks",
    "num_lookahead_tokens",
]


def quicken(cache: Any) -> bool:
    """Have a ``KVCacheManager`` of vLLM answer at once if a sequence has the blocks that it asks for, all of them cached.

    Returns:
        False: it stays as it is, because the model has other kinds of attention, or this vLLM is not known.
    """
    manager = _full_attention(cache)
    if manager is None:
        return False
    allocate_slots, cache_blocks = cache.allocate_slots, cache.cache_blocks
    size, blocks, cached = manager.block_size, manager.req_to_blocks, manager.num_cached_block
    caching, nothing = manager.enable_caching, cache.empty_kv_cache_blocks

    def allocate(request: Any, num_new_tokens: int, *args: Any, **kwargs: Any) -> Any:
        # A running request asks with these arguments alone, and any with no tokens is an error.
        if num_new_tokens and not args and kwargs == _RUNNING:
            name, tokens = request.request_id, request.num_computed_tokens + num_new_tokens
            if (
                name in blocks
                and tokens <= len(blocks[name]) * size
                and (not caching or cached.get(name, 0) >= tokens // size)
            ):
                return nothing
        return allocate_slots(request, num_new_tokens, *args, **kwargs)

    def cache_full(request: Any, num_computed_tokens: int) -> None:
        if cached.get(request.request_id, 0) < num_computed_tokens // size:
            cache_blocks(request, num_computed_tokens)

    cache.allocate_slots, cache.cache_blocks = allocate, cache_full
    return True


_RUNNING = {"num_lookahead_tokens": 0}


def _full_attention(cache: Any) -> Any:
    """Return the manager of the model's only kind of KV cache if it is one of full attention, otherwise None."""
    from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager

    managers: Any = getattr(getattr(cache, "coordinator", None), "single_type_managers", ())
    if len(managers) != 1 or type(managers[0]) is not FullAttentionManager:
        return None
    (manager,) = managers
    known = (
        list(inspect.signature(cache.allocate_slots).parameters)[:5] == _ALLOCATE
        and list(inspect.signature(cache.cache_blocks).parameters) == ["request", "num_computed_tokens"]
        and all(hasattr(manager, name) for name in ("req_to_blocks", "num_cached_block", "enable_caching"))
        and hasattr(cache, "empty_kv_cache_blocks")
        # Otherwise parts of a block are cached, too.
        and manager.block_size == getattr(manager.block_pool, "hash_block_size", None)
    )
    return manager if known else None
