"""Changes to what vLLM's workers run, for which it has no hook. Called in each process that holds a part of the model."""

from __future__ import annotations

from typing import Any

NAME = f"{__name__}.WorkerHooks"
"""What vLLM takes as ``worker_extension_cls``."""

MEND_SAMPLING = "penstock_mend_sampling"
"""The method that the front calls in every worker."""


class WorkerHooks:
    """Methods that vLLM adds to its worker."""

    def penstock_mend_sampling(self) -> bool:
        """Mend two functions of vLLM 0.32 that draw tokens for an engine that speculates.

        - With ``top_k``, the tokens that were guessed are masked even if there are none, and the maximum of nothing ends the
          process.
        - On a CPU, ``temperature``, ``top_k`` and ``top_p`` of a request are to be repeated for each of its guesses. Where
          they are no 64-bit integers the result is written into a copy, so that guesses are drawn with whatever was in
          memory: mostly the best token, whatever the temperature, and tokens that ``allowed_token_ids`` leaves out.

        Returns:
            Whether this vLLM has both.
        """
        from vllm.platforms import current_platform
        from vllm.v1.sample import rejection_sampler
        from vllm.v1.sample.ops import topk_topp_sampler

        mended = _replace(topk_topp_sampler, "apply_top_k_only", _top_k)
        if current_platform.is_cpu():
            return _replace(rejection_sampler, "expand_batch_to_tokens", _expand) and mended
        return mended


def _replace(module: Any, name: str, function: Any) -> bool:
    """Replace a function of a module by ``function(original)``, once. False: the module has none of this name."""
    original = getattr(module, name, None)
    if original is None:
        return False
    if not getattr(original, _MARK, False):
        ours = function(original)
        setattr(ours, _MARK, True)
        setattr(module, name, ours)
    return True


_MARK = "penstock"


def _top_k(original: Any) -> Any:
    def apply(logits: Any, k: Any) -> Any:
        return original(logits, k) if logits.shape[0] else logits

    return apply


def _expand(_: Any) -> Any:
    def expand(
        x: Any, cu_num_tokens: Any, num_tokens: int, replace_from: int = 0, replace_to: int = 0
    ) -> Any:
        counts = cu_num_tokens.diff(prepend=cu_num_tokens.new_zeros(1))
        wide = x.repeat_interleave(counts, output_size=num_tokens)
        return wide.masked_fill_(wide == replace_from, replace_to)

    return expand
