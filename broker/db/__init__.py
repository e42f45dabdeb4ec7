"""The connection to Redis: clients, addresses, keys, functions, errors."""
