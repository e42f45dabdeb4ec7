"""Metrics and logging, shared by the api and the workers."""
