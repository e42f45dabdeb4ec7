"""The worker process: the engine's loop, the lease, and how the process ends."""
