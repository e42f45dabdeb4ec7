"""Between ASGI and the handlers: bodies, errors, streams, the OpenAPI document. Imports no other room."""
