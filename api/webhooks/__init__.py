"""Webhook endpoints: make, change and delete them, see what was sent, and send it again."""
