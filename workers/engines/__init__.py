"""Engines: vLLM in process, any OpenAI-compatible server, and a simulated one for load and fault tests."""
