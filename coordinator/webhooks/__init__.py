"""Delivers webhooks: takes what is due from Redis, sends it, and notes how that went."""
