"""Metrics of webhooks: what waits, what was tried, what was given up. Part of :class:`monitoring.metrics.SharedState`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from jobs.facts import WebhookFacts

STATES = ("active", "disabled")
RESULTS = ("delivered", "failed")
REASONS = ("failed", "overflow")


class WebhookState:
    """Gauges of the endpoints and their outboxes, and counters of the tries."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counted: dict[str, int] = {}
        self._endpoints = Gauge(
            "penstock_webhooks", "Webhook endpoints of tenants, by state.", ["state"], registry=registry
        )
        self._overdue = Gauge(
            "penstock_webhooks_overdue",
            "Endpoints that should have been served a minute ago, and that no coordinator has taken.",
            registry=registry,
        )
        self._pending = Gauge(
            "penstock_webhook_events_pending",
            "Events that are not delivered yet, of the first 1,000 endpoints.",
            registry=registry,
        )
        self._oldest = Gauge(
            "penstock_webhook_oldest_seconds",
            "Seconds that the oldest of these waits at an active endpoint; 0 if none waits.",
            registry=registry,
        )
        self._dead = Gauge(
            "penstock_webhook_dead_letters",
            "Events that were given up and are kept, of the same endpoints.",
            registry=registry,
        )
        self._tries = Counter(
            "penstock_webhook_tries_total", "Tries to deliver an event.", ["result"], registry=registry
        )
        self._given_up = Counter(
            "penstock_webhook_events_given_up_total",
            "Events that became dead letters: every try of a day failed, or too many waited.",
            ["reason"],
            registry=registry,
        )
        for state in STATES:
            self._endpoints.labels(state)
        for result in RESULTS:
            self._tries.labels(result)
        for reason in REASONS:
            self._given_up.labels(reason)

    def take(self, facts: WebhookFacts) -> None:
        """Take the facts."""
        self._endpoints.labels("active").set(facts.active)
        self._endpoints.labels("disabled").set(facts.disabled)
        self._overdue.set(facts.overdue)
        self._pending.set(facts.pending)
        self._oldest.set(facts.oldest_s)
        self._dead.set(facts.dead)
        for result in RESULTS:
            self._tries.labels(result).inc(self._since(facts, result))
        for reason in REASONS:
            self._given_up.labels(reason).inc(self._since(facts, f"dead:{reason}"))

    def _since(self, facts: WebhookFacts, name: str) -> int:
        """Return what came since the last time; a Redis that came back empty starts at 0."""
        now, before = facts.counts.get(name, 0), self._counted.get(name, 0)
        self._counted[name] = now
        return now - before if now >= before else now
