"""Celery's application, message format and transport."""
