"""The FastAPI front: routes, errors as HTTP, Server-Sent Events."""
