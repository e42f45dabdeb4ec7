"""Pub/sub: one subscription per process, and the hub that follows jobs with it."""
