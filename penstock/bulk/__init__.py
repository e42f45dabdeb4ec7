"""Bulk runs from files: read prompts, CSV, Parquet and JSON Lines, keep the rows that come back, check them.

Everything streams: memory does not grow with the number of rows. Only ``run`` talks to a server.
"""
