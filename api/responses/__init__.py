"""OpenAI's Responses: each is a job, so it survives a crash, and its stream can be resumed."""
