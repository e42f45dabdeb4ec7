"""The simulated engine, for load and fault tests."""
