"""Wrappers around every request: metrics, traces and the guard against unexpected exceptions."""
