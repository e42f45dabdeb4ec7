"""Changes to what vLLM's workers run, for which it has no hook. Called in each process that holds a part of the model."""

from __future__ import annotations

from typing import Any

NAME = f"{__name__}.WorkerHooks"
"""What vLLM takes as ``worker_extension_cls``."""

MEND_TOP_K = "penstock_mend_top_k"
"""The method that the front calls in every worker."""


class WorkerHooks:
    """Methods that vLLM adds to its worker."""

    def penstock_mend_top_k(self) -> bool:
        """Let a step of an engine that speculates have no guesses at all, though a request in it has ``top_k``.

        vLLM 0.32 masks the tokens that were guessed even if there are none, and the maximum of nothing ends its process.

        Returns:
            Whether this vLLM's function was found and changed.
        """
        from vllm.v1.sample.ops import topk_topp_sampler as sampler

        original = getattr(sampler, _FUNCTION, None)
        if original is None or getattr(original, _MARK, False):
            return original is not None

        def apply(logits: Any, k: Any) -> Any:
            return original(logits, k) if logits.shape[0] else logits

        setattr(apply, _MARK, True)
        setattr(sampler, _FUNCTION, apply)
        return True


_FUNCTION = "apply_top_k_only"
_MARK = "penstock"
