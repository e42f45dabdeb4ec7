"""Redis and Celery: every key, every script, the queues and the event stream. Nothing else talks to Redis."""
