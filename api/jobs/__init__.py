"""The jobs API: submit, look up, follow, cancel, move, repeat."""
