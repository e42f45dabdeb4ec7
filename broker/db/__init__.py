"""The connection to Redis: clients, addresses, keys, scripts, errors."""
