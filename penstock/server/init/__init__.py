"""``penstock init``: a first ``penstock.toml``, with what this machine has and can serve."""
