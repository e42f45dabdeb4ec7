"""Finding the server that ``penstock up`` runs in this folder, and its key, without naming them."""

from __future__ import annotations

import json
import os
from pathlib import Path

ADDRESS_FILE = "up.json"
"""In the data directory. ``penstock up`` holds a lock on it while it runs (``penstock/server/address.py``)."""


KEY_FILE = "admin.key"
"""In the data directory: the administrator's key that ``penstock up`` made (``penstock/server/first_key.py``)."""


def running_here() -> str | None:
    """Return the address of the ``penstock up`` whose data directory is this folder's; None if none runs.

    Only a file of this user is believed, and only while a process holds its lock: a folder that came from elsewhere
    cannot send the API key to an address of its choice.
    """
    try:
        import fcntl
    except ImportError:  # not on this system, and neither is `penstock up`
        return None
    path = _data_dir() / ADDRESS_FILE
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                url = json.loads(file.read())["url"]
                return url if isinstance(url, str) else None
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or one that is just being written
    return None


def key_here() -> str | None:
    """Return the administrator's key that ``penstock up`` made here; None: there is none. It is for that server only.

    Only a file that this user owns, and nobody else can read, is believed.
    """
    try:
        with (_data_dir() / KEY_FILE).open("rb") as file:
            facts = os.fstat(file.fileno())
            if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
                return None
            return file.read(256).decode("ascii").strip() or None
    except (
        OSError,
        ValueError,
        AttributeError,
    ):  # the last: a system without users, and without `penstock up`
        return None


def _data_dir() -> Path:
    return Path(os.environ.get("PENSTOCK_DATA_DIR") or ".penstock")
