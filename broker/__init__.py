"""Redis and Celery: keys, scripts, queues and events. No other package talks to Redis."""
