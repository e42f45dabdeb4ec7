"""Metrics of a worker's engine, read at the scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from jobs.facts import EnginePriority, EngineStats
from monitoring.metrics.common import Asked, Family


class EngineGauges(Asked):
    """The engine's figures; one that it does not report has no series.

    Args:
        ask: returns the engine's state; called in the scrape's thread, as is ``priority``.
    """

    RUNNING = Family("penstock_engine_requests_running", "Requests in the engine's current batch.")
    WAITING = Family(
        "penstock_engine_requests_waiting", "Requests that the engine holds and has not scheduled."
    )
    KV_CACHE = Family("penstock_engine_kv_cache_usage_ratio", "Part of the KV cache that is in use, 0 to 1.")
    PREEMPTIONS = Family(
        "penstock_engine_preemptions",
        "Requests that the engine took out of its batch again for want of KV cache.",
        counter=True,
    )
    EVICTIONS = Family(
        "penstock_engine_evictions",
        "Bulk requests that made way in the engine's batch for others.",
        counter=True,
    )
    PRIORITY = Family(
        "penstock_engine_priority",
        "Whether the engine runs calls before bulk that waits in it: 1 for the state that holds, 0 for the others.",
        ("state",),
    )
    GENERATED = Family(
        "penstock_engine_generated_tokens", "Tokens that the engine has made, step by step.", counter=True
    )
    STEP = Family(
        "penstock_engine_step_seconds",
        "What a step of the engine costs: itself (base), each decode, each prompt_token; fitted while it runs.",
        ("part",),
    )
    DRAFTS = Family(
        "penstock_spec_drafts",
        "Guesses of speculative decoding: one for each sequence and step.",
        counter=True,
    )
    DRAFTED = Family(
        "penstock_spec_drafted_tokens", "Tokens that speculative decoding guessed.", counter=True
    )
    ACCEPTED = Family(
        "penstock_spec_accepted_tokens", "Guessed tokens that the model accepted as output.", counter=True
    )
    FAMILIES: ClassVar[tuple[Family, ...]] = (
        RUNNING,
        WAITING,
        KV_CACHE,
        PREEMPTIONS,
        EVICTIONS,
        GENERATED,
        DRAFTS,
        DRAFTED,
        ACCEPTED,
        PRIORITY,
        STEP,
    )

    def __init__(
        self,
        registry: CollectorRegistry,
        ask: Callable[[], EngineStats],
        priority: Callable[[], EnginePriority],
    ) -> None:
        self._ask, self._priority = ask, priority
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Read the engine."""
        state = self._ask()
        guesses = state.speculation
        said = (
            *(state.running, state.waiting, state.kv_cache_usage),
            *(state.preemptions, state.evictions, state.generated),
            *((None,) * 3 if guesses is None else (guesses.drafts, guesses.drafted, guesses.accepted)),
        )
        for family, value in zip(self.FAMILIES[:-2], said, strict=True):
            metric = family.metric()
            if value is not None:
                metric.add_metric([], value)
            yield metric
        priority, holds = self.PRIORITY.metric(), self._priority()
        for each in EnginePriority:
            priority.add_metric([each.value], float(each is holds))
        yield priority
        step = self.STEP.metric()
        for part, seconds in state.step_s.items():
            step.add_metric([part], seconds)
        yield step
