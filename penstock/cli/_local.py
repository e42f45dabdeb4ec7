"""Finding the server that ``penstock up`` runs in this folder, without naming its port."""

from __future__ import annotations

import json
import os
from pathlib import Path

ADDRESS_FILE = "up.json"
"""In the data directory. ``penstock up`` holds a lock on it while it runs (``penstock/server/address.py``)."""


def running_here() -> str | None:
    """Return the address of the ``penstock up`` whose data directory is this folder's; None if none runs.

    Only a file of this user is believed, and only while a process holds its lock: a folder that came from elsewhere
    cannot send the API key to an address of its choice.
    """
    try:
        import fcntl
    except ImportError:  # not on this system, and neither is `penstock up`
        return None
    path = Path(os.environ.get("PENSTOCK_DATA_DIR") or ".penstock") / ADDRESS_FILE
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
