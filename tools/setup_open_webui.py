#!/usr/bin/env python3
"""Makes ``.venv-open-webui``, with Open WebUI in it, for the test that chats through it.

    python3 tools/setup_open_webui.py

An environment of its own: Open WebUI pins older versions of what the api uses. About 2.5 GB, and five minutes. At once
where it is there already. ``PENSTOCK_OPEN_WEBUI`` names another one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VENV = Path(__file__).resolve().parent.parent / ".venv-open-webui"
VERSION = "0.12.4"
TORCH = "torch==2.13.0+cpu"  # from where pip is configured to look, as in setup_env.py


def main() -> int:
    """Install it."""
    done = VENV / "done"
    if done.exists() and done.read_text() == VERSION:
        return 0
    shutil.rmtree(VENV, ignore_errors=True)
    print(f"setup: Open WebUI {VERSION} into {VENV.name} (2.5 GB)", flush=True)
    pip = [
        str(VENV / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--no-input",
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        pins.write(f"{TORCH}\n")
        pins.flush()
        for argv in (
            [sys.executable, "-m", "venv", str(VENV)],
            [*pip, TORCH],  # first: what needs it must not bring the CUDA build
            [*pip, "-c", pins.name, f"open-webui=={VERSION}"],
        ):
            if status := subprocess.run(argv, check=False, stderr=subprocess.STDOUT).returncode:
                return status
    done.write_text(VERSION)
    return 0


if __name__ == "__main__":
    sys.exit(main())
