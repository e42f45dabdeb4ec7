"""Queues, workers, health and metrics."""
