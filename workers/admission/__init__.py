"""How much bulk work the engine takes now."""
