"""OpenAI's Batches API, and what Penstock adds to it."""
