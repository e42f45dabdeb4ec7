"""Statistics of vLLM's scheduler, for the lane controller and the metrics."""

from __future__ import annotations

from typing import Any

from jobs.facts import EngineStats, SpeculationStats

_COUNTED = ("num_preempted_reqs", "num_generation_tokens")
_GUESSED = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")


class Steps:
    """Each engine's last step, and sums over all steps. One event loop writes; any thread reads.

    Attributes:
        count: steps since the start, also those without a token, as in a long prompt.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last: dict[int, Any] = {}
        self._sums = dict.fromkeys((*_COUNTED, *_GUESSED), 0)
        self._speculates = False

    def clear(self) -> None:
        """Forget all: another engine starts."""
        self._last.clear()
        self._sums = dict.fromkeys((*_COUNTED, *_GUESSED), 0)
        self._speculates = False

    def stats(self, held: int) -> EngineStats:
        """Return the sum over the engines.

        Args:
            held: requests that the engine client holds. An aborted request leaves no step behind it that would say so.
        """
        steps = list(self._last.values())  # a snapshot
        if not steps:
            return EngineStats(0, 0, 0.0)
        running = min(held, sum(step.num_running_reqs for step in steps))
        waiting = min(held - running, sum(step.num_waiting_reqs for step in steps))
        usage = max(step.kv_cache_usage for step in steps) if held else 0.0
        preemptions, generated, *guessed = self._sums.values()
        speculation = SpeculationStats(*guessed) if self._speculates else None
        return EngineStats(running, waiting, usage, preemptions, generated, speculation=speculation)

    def counted(self) -> tuple[int, int]:
        """Return the preemptions and the generated tokens since the start."""
        return self._sums["num_preempted_reqs"], self._sums["num_generation_tokens"]

    def logger(self, base: Any) -> Any:
        """Return a stat logger class for vLLM that writes here. ``base``: vLLM's ``StatLoggerBase``."""
        steps, last, sums = self, self._last, self._sums

        class LastStep(base):  # type: ignore[misc]
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                self._index = engine_index
                steps._speculates = vllm_config.speculative_config is not None

            def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
                steps.count += 1
                if scheduler_stats is not None:
                    last[self._index] = scheduler_stats
                for name in _COUNTED:
                    sums[name] += getattr(iteration_stats, name, 0)
                guessed = getattr(scheduler_stats, "spec_decoding_stats", None)
                if guessed is not None:
                    for name in _GUESSED:
                        sums[name] += getattr(guessed, name)

            def log_engine_initialized(self) -> None:
                pass

        return LastStep
