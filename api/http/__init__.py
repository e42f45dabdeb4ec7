"""What every room shares of HTTP: bodies, replies, errors, pages, event streams, the OpenAPI document.

Imports no other room.
"""
