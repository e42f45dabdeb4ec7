"""Bulk runs from files: reading prompts, CSV, Parquet and JSON Lines, keeping what comes back, checking it.

Everything streams: memory does not grow with the number of rows. Nothing here talks to a server.
"""
