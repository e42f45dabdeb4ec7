"""Celery workers: engines, the job runner, heartbeats and drain."""
