"""The worker process: the engine's loop, the lease, and what the worker says of itself."""
