"""The peers' own virtual environments: made when a benchmark first needs them, from the lock files in ``_peers/``."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from _stack import ROOT

PEERS = Path(__file__).parent / "_peers"
MADE = ROOT / "build" / "peers"


def lock(name: str) -> Path:
    """Return a peer's lock file."""
    return PEERS / f"{name}.lock"


def fingerprint(name: str) -> str:
    """Return what decides an environment's content: its lock file and the Python."""
    return hashlib.sha256(lock(name).read_bytes() + sys.version.encode()).hexdigest()


def pinned(name: str, *packages: str) -> str:
    """Return the versions of packages in a peer's lock file, for the table: ``arq 0.28.0, redis 5.3.1``."""
    pins = dict(re.findall(r"(?m)^([a-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", lock(name).read_text()))
    return ", ".join(f"{package} {pins[package]}" for package in packages)


def environment(name: str) -> Path:
    """Return the Python of a peer's environment; make the environment first if it is missing or outdated.

    Raises:
        RuntimeError: pip could not install the packages.
    """
    folder = MADE / name
    stamp = folder / "made-from"
    if not (stamp.exists() and stamp.read_text() == fingerprint(name)):
        print(f"peers: making {folder.relative_to(ROOT)} (once)", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--no-input"]
        pip += ["--disable-pip-version-check", "--no-deps", "--require-hashes", "-r", str(lock(name))]
        done = subprocess.run(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                f"pip could not install {lock(name).relative_to(ROOT)}:\n{done.stdout[-3000:]}"
            )
        stamp.write_text(fingerprint(name))
    return folder / "bin" / "python"
