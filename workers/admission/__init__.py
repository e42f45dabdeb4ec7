"""How much work the engine takes now."""
