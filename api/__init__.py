"""The front door: FastAPI routes, errors and Server-Sent Events. Everything else happens across Redis."""
