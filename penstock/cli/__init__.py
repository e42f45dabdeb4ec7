"""The ``penstock`` command line."""
