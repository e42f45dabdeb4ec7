"""OpenAI's Files API: uploads of any size in constant memory, look-ups, deletion, content with ranges."""
