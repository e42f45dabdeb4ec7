"""The short way to KV cache gives what vLLM's own way gives, over random lives of sequences."""

from __future__ import annotations

import random
from typing import Any

import pytest

from workers.engines.vllm.quick_slots import quicken

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's own imports warn

BLOCK = 4
BLOCKS = 40


def make_cache(*, caching: bool, window: int | None = None) -> Any:
    import torch
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.kv_cache_interface import (
        FullAttentionSpec,
        KVCacheConfig,
        KVCacheGroupSpec,
        SlidingWindowSpec,
    )

    shape: dict[str, Any] = {"block_size": BLOCK, "num_kv_heads": 1, "head_size": 1, "dtype": torch.float32}
    spec = FullAttentionSpec(**shape) if window is None else SlidingWindowSpec(**shape, sliding_window=window)
    config = KVCacheConfig(
        num_blocks=BLOCKS, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
    )
    return KVCacheManager(
        config, max_model_len=64, scheduler_block_size=BLOCK, hash_block_size=BLOCK, enable_caching=caching
    )


def make_request(name: str, prompt: list[int]) -> Any:
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    init_none_hash(sha256)
    return Request(
        name,
        prompt,
        SamplingParams(max_tokens=64),
        None,
        block_hasher=get_request_block_hasher(BLOCK, sha256),
    )


class Side:
    """One cache, and its own copies of the sequences."""

    def __init__(self, *, caching: bool, quick: bool) -> None:
        self.cache = make_cache(caching=caching)
        self.own_calls = 0
        own = self.cache.allocate_slots

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.own_calls += 1
            return own(*args, **kwargs)

        self.cache.allocate_slots = counting
        # The signature is looked at.
        counting.__wrapped__ = own  # type: ignore[attr-defined]
        assert not quick or quicken(self.cache)
        self.requests: dict[str, Any] = {}

    def admit(self, name: str, prompt: list[int]) -> object:
        request = make_request(name, list(prompt))
        blocks, found = self.cache.get_computed_blocks(request)[:2]
        new = self.cache.allocate_slots(
            request, len(prompt) - found, found, blocks, full_sequence_must_fit=True
        )
        if new is not None:
            request.num_computed_tokens = len(prompt)
            self.requests[name] = request
        return found, self.state(new)

    def step(self, name: str, token: int, *, ahead: bool) -> object:
        """One token, which is known before (``ahead``: after) its place is asked for."""
        request = self.requests[name]
        if not ahead:
            request.append_output_token_ids(token)
        new = self.cache.allocate_slots(request, 1, num_lookahead_tokens=0)
        if new is not None:
            request.num_computed_tokens += 1
        if ahead:
            request.append_output_token_ids(token)
        if new is not None:
            self.cache.cache_blocks(request, request.num_computed_tokens - int(ahead))
        return self.state(new)

    def end(self, name: str) -> object:
        self.cache.free(self.requests.pop(name))
        return self.state(None)

    def state(self, new: Any) -> object:
        (manager,) = self.cache.coordinator.single_type_managers
        return (
            None if new is None else new.get_block_ids(),
            {name: [b.block_id for b in manager.req_to_blocks[name]] for name in self.requests},
            {name: manager.num_cached_block.get(name, 0) for name in self.requests},
            self.cache.block_pool.get_num_free_blocks(),
            self.cache.usage,
        )


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("ahead", [True, False])
def test_it_is_the_same_as_the_long_way(caching: bool, ahead: bool) -> None:
    dice = random.Random(1)
    sides = [Side(caching=caching, quick=quick) for quick in (False, True)]
    shared = [dice.randrange(9) for _ in range(9)]
    for turn in range(3000):
        names = list(sides[0].requests)
        what = dice.random()
        if len(names) < 3 or what < 0.05:
            prompt = shared[: dice.randrange(10)] + [dice.randrange(9) for _ in range(dice.randrange(1, 9))]
            one, other = (side.admit(f"r{turn}", prompt) for side in sides)
        elif what < 0.1 or any(sides[0].requests[n].num_tokens > 55 for n in names):
            longest = max(names, key=lambda n: sides[0].requests[n].num_tokens)
            one, other = (side.end(longest) for side in sides)
        else:
            name, token = dice.choice(names), dice.randrange(9)
            one, other = (side.step(name, token, ahead=ahead) for side in sides)
        assert one == other
    assert sides[1].own_calls < 0.7 * sides[0].own_calls


def test_other_attention_keeps_the_long_way() -> None:
    cache = make_cache(caching=True, window=8)
    assert not quicken(cache)
    assert "allocate_slots" not in vars(cache)
