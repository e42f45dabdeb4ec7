"""An engine that only pretends, for load and fault tests."""
