"""Celery's side of a worker: pool, consumer and task events."""
