"""Conversations: OpenAI's Conversations API."""
