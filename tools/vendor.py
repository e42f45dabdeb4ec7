#!/usr/bin/env python3
"""Fetches the scripts and styles of others, for the console and the documentation. Nothing is fetched while they run.

    python3 tools/vendor.py            fetch them anew (needs npm)
    python3 tools/vendor.py --check    compare the files here with the lists: VENDORED.json in each folder

A new version: change it in ``VENDORED.json``, delete its ``integrity`` and ``sha256``, run this, and look at the difference.

Exit status: 0, or 1 with one line that says what differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (ROOT / "api" / "console" / "static", ROOT / "docs" / "assets" / "vendor")
LIST = "VENDORED.json"
LICENCES = "LICENCES.txt"


def main() -> int:
    """Fetch or check."""
    parser = argparse.ArgumentParser(description="Vendored files.")
    parser.add_argument("--check", action="store_true", help="compare, fetch nothing")
    act = check if parser.parse_args().check else fetch
    wrong = [line for folder in FOLDERS for line in act(folder)]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


def listed(folder: Path) -> list[dict[str, Any]]:
    """Return a folder's list."""
    return list(json.loads((folder / LIST).read_text()))


def check(folder: Path) -> list[str]:
    """Return a line for each file of a folder that is not the one in its list."""
    return [
        f"{one['file']} is not {one['package']} {one['version']}: its digest differs"
        for one in listed(folder)
        if digest((folder / one["file"]).read_bytes()) != one["sha256"]
    ]


def fetch(folder: Path) -> list[str]:
    """Fetch a folder's files; return a line for each that is not the one in the list, which is then left as it was."""
    wanted, wrong, licences = listed(folder), [], []
    for one in wanted:
        with tempfile.TemporaryDirectory() as scratch:
            packed = pack(one["package"], one["version"], Path(scratch))
            if one.setdefault("integrity", packed["integrity"]) != packed["integrity"]:
                wrong.append(f"{one['package']} {one['version']} is not the package that was fetched before")
                continue
            with tarfile.open(Path(scratch) / packed["filename"]) as archive:
                content = read(archive, one["path"])
                licences.append((one, read(archive, one["licence_path"]).decode().strip()))
        if one.setdefault("sha256", digest(content)) != digest(content):
            wrong.append(f"{one['file']} differs from the one that was fetched before")
            continue
        (folder / one["file"]).write_bytes(content)
    if not wrong:
        (folder / LIST).write_text(json.dumps(wanted, indent=2) + "\n")
        texts = {f"{one['package']} {one['version']} ({one['licence']})": text for one, text in licences}
        (folder / LICENCES).write_text(
            "\n\n".join(f"{name}\n\n{text}" for name, text in texts.items()) + "\n"
        )
    return wrong


def pack(package: str, version: str, folder: Path) -> dict[str, Any]:
    """Have npm fetch a package, without running anything of it; return what it says of it."""
    command = ["npm", "pack", "--json", "--ignore-scripts", f"{package}@{version}"]
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    (said,) = json.loads(done.stdout)
    return dict(said)


def read(archive: tarfile.TarFile, path: str) -> bytes:
    """Return a file of an npm package."""
    found = archive.extractfile(f"package/{path}")
    if found is None:
        raise FileNotFoundError(path)
    return found.read()


def digest(content: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
