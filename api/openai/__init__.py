"""The OpenAI endpoints: each call is a job of the lane ``realtime``, and its caller waits for it."""
