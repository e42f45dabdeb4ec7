"""The connection to Redis: clients, addresses, keys, scripts and errors."""
