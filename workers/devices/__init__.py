"""GPUs, weights and pools: which process runs where."""
