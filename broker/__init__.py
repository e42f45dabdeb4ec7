"""Redis and Celery: keys, functions, queues and events. No other package talks to Redis."""
