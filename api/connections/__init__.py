"""The server below ASGI: the bounds of each connection, and the stop of the process."""
