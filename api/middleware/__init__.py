"""Wrappers around every request: metrics, traces, hosts and the guard against unexpected exceptions."""
