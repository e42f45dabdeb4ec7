"""``penstock doctor``: looks at this machine, its settings, its Redis and its devices, and says what will hurt."""
