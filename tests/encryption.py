"""Keys of encryption at rest for tests, and a look for a text wherever the data lies."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

from redis import Redis

from broker.settings import BrokerSettings


def key_line(name: str = "k1") -> str:
    """Return one line of the setting ``encryption_keys``."""
    return f"{name}:{base64.b64encode(os.urandom(32)).decode()}"


def places_of(text: str, settings: BrokerSettings, *folders: Path) -> list[str]:
    """Return the fields of Redis's keys of this namespace, and the files, that hold a text in clear or in base64."""
    forms = [text.encode(), *(base64.b64encode(b"x" * shift + text.encode())[4:-4] for shift in range(3))]
    found = [name for name, data in _stored(settings) if any(form in data for form in forms)]
    paths = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    found += [str(path) for path in paths if any(form in path.read_bytes() for form in forms)]
    return found


def _stored(settings: BrokerSettings) -> Iterator[tuple[str, bytes]]:
    with Redis.from_url(settings.redis_url) as client:
        for key in client.scan_iter(f"{settings.namespace}*", count=1000):
            name = key.decode()
            yield f"the name {name}", key
            yield f"the dump of {name}", client.dump(key) or b""  # small values are in it as they are
            match client.type(key):
                case b"hash":
                    for field, value in client.hgetall(key).items():
                        yield f"{name} {field.decode()}", value
                case b"stream":
                    for eid, fields in client.xrange(key):
                        yield f"{name} {eid.decode()}", b"".join(fields.values())
                case b"string":
                    yield name, client.get(key)
                case b"zset":
                    yield name, b"\n".join(client.zrange(key, 0, -1))
                case b"set":
                    yield name, b"\n".join(client.smembers(key))
