#!/usr/bin/env python3
"""Sets up the TypeScript SDK for its tests: Node, the packages of its lock file, and the types. At once if nothing changed.

    python3 tools/setup_node.py [NPM-ARGUMENTS...]

Node 20.19, 22.12 or newer comes from the PATH, or else out of a Python package into ``.venv`` (70 MB to download; its hashes
are in ``requirements/node.lock``). Arguments are those of an npm command to run afterwards in the folder of the SDK, such as
``run check``. Standard library only; after ``setup_env.py``. Exit status: npm's, or 1 with one message that says what to do.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
SDK = ROOT / "clients" / "typescript"
STAMP = SDK / "node_modules" / ".penstock-setup.json"
LOCK = ROOT / "requirements" / "node.lock"
NEEDED = "Node 20.19, 22.12 or newer"
"""As tsdown, rolldown and vite ask; what they build runs on older ones."""

STEPS = {
    # A package's own scripts are not run: none of these needs them.
    ("ci", "--silent", "--ignore-scripts"): (SDK / "package.json", SDK / "package-lock.json", SDK / ".npmrc"),
    ("run", "--silent", "types"): (SDK / "package-lock.json", ROOT / "clients" / "openapi.json"),
}
"""The npm commands that set it up, in order, and the files that each depends on."""


def node_folder() -> Path | None:
    """Return the folder with ``node`` and ``npm`` of a version that will do; None: there is none."""
    for folder in (VENV / "bin", *map(Path, os.environ.get("PATH", "").split(os.pathsep))):
        node = shutil.which("node", path=str(folder))
        if node is None or shutil.which("npm", path=str(folder)) is None:
            continue
        said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
        if new_enough(said):
            return folder
    return None


def new_enough(said: str) -> bool:
    """Whether ``node --version`` says one that will do."""
    found = re.match(r"v(\d+)\.(\d+)", said)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    return (20, 19) <= version < (21, 0) or version >= (22, 12)


def node_env() -> dict[str, str]:
    """Return the environment of programs that run on Node: this one's, with Node's folder first on the PATH.

    Raises:
        FileNotFoundError: there is no Node.
    """
    folder = node_folder()
    if folder is None:
        raise FileNotFoundError(f"there is no {NEEDED}: run tools/setup_node.py")
    # npm hangs in an empty environment, so the rest stays.
    return {**os.environ, "PATH": os.pathsep.join((str(folder), os.environ.get("PATH", "")))}


def stamp(files: tuple[Path, ...]) -> str:
    """Return what a step depends on, in short."""
    digest = hashlib.sha256(str(node_folder()).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def npm(*args: str) -> int:
    """Run npm in the folder of the SDK; return its exit status."""
    env = node_env()
    found = shutil.which("npm", path=env["PATH"])
    return subprocess.run(
        [str(found), *args], cwd=SDK, env=env, stdin=subprocess.DEVNULL, check=False
    ).returncode


def set_up() -> bool:
    """Install Node if there is none, the packages, and write the types; return whether that went well."""
    if node_folder() is None:
        pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input"]
        options = ["--disable-pip-version-check", "--require-hashes", "--only-binary=:all:", "-r", str(LOCK)]
        subprocess.run([*pip, *options], check=False)
    if node_folder() is None:
        print(
            f"the TypeScript SDK needs {NEEDED}, with npm: install it, and run this again",
            file=sys.stderr,
        )
        return False
    done = json.loads(STAMP.read_text()) if STAMP.exists() else {}
    for command, files in STEPS.items():
        name, now = " ".join(command), stamp(files)
        if done.get(name) == now:
            continue
        if npm(*command):
            print(f"npm could not set up {SDK}: see its message above", file=sys.stderr)
            return False
        done[name] = now
        STAMP.write_text(json.dumps(done))
    return True


def main() -> int:
    """See the module."""
    if not set_up():
        return 1
    return npm(*sys.argv[1:]) if sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
