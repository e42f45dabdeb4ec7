"""Addresses of Redis, as redis-py and as kombu write them."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit, urlunsplit


def celery_url(url: str) -> str:
    """Turn redis-py's address into kombu's.

    ``redis://`` and ``rediss://`` are the same in both; ``unix:///path?db=0`` becomes ``redis+socket:///path?virtual_host=0``.

    Raises:
        ValueError: the scheme is none of these.
    """
    parts = urlsplit(url)
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parts.query:
        # kombu takes a bare rediss:// for one without certificate checks, redis-py for one with them
        query = f"{parts.query}&ssl_cert_reqs=required".lstrip("&")
        return urlunsplit(parts._replace(query=query))
    if parts.scheme in {"redis", "rediss"}:
        return url
    if parts.scheme == "unix":
        database = parse_qs(parts.query).get("db", ["0"])[0]
        return f"redis+socket://{parts.path}?virtual_host={database}"
    msg = f"a Redis address starts with redis://, rediss:// or unix://, not {parts.scheme or url!r}"
    raise ValueError(msg)


def without_password(url: str) -> str:
    """Return the address as it may be shown."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    user = parts.username or ""
    return urlunsplit(parts._replace(netloc=f"{user}:***@{host}"))
