"""The version that the benchmarks call "before": its code, beside this one's, from the history of this repository."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from _stack import ROOT

COMMIT = "8a25473eca57419d9c5e67885595a713cc9391b7"
"""The last commit of the queue whose messages were pushed to lists, and claimed after they were popped."""

FOLDER = ROOT / ".penstock" / "benchmarks" / f"before-{COMMIT[:12]}"


def unavailable() -> str | None:
    """Say why the code of the version before cannot be had; None where it can."""
    if FOLDER.exists():
        return None
    asked = ["git", "-C", str(ROOT), "cat-file", "-e", f"{COMMIT}^{{commit}}"]
    try:
        found = subprocess.run(asked, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return "git is not installed, and the version before comes from the repository's history"
    if found:
        return None
    return f"the repository's history does not hold {COMMIT[:12]}, the version before; fetch it whole"


def checkout() -> Path:
    """Return the folder with the code of the version before; it is made when it is first asked for.

    Raises:
        RuntimeError: the history does not hold it.
    """
    if reason := unavailable():
        raise RuntimeError(reason)
    if not FOLDER.exists():
        asked = ["git", "-C", str(ROOT), "archive", "--format=tar", COMMIT]
        archive = subprocess.run(asked, capture_output=True, check=True).stdout
        fresh = FOLDER.with_suffix(".new")
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(fresh, filter="data")
        fresh.rename(FOLDER)
    return FOLDER
