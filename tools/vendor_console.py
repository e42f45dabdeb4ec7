#!/usr/bin/env python3
"""Fetches the scripts and styles of others that the console sends: nothing is fetched while it runs.

    python3 tools/vendor_console.py            fetch them anew (needs npm)
    python3 tools/vendor_console.py --check    compare the files here with api/console/static/VENDORED.json

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

STATIC = Path(__file__).resolve().parent.parent / "api" / "console" / "static"
LIST = STATIC / "VENDORED.json"
LICENCES = STATIC / "LICENCES.txt"


def main() -> int:
    """Fetch or check."""
    parser = argparse.ArgumentParser(description="The console's vendored files.")
    parser.add_argument("--check", action="store_true", help="compare, fetch nothing")
    wanted: list[dict[str, Any]] = json.loads(LIST.read_text())
    wrong = check(wanted) if parser.parse_args().check else fetch(wanted)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


def check(wanted: list[dict[str, Any]]) -> list[str]:
    """Return a line for each file that is not the one in the list."""
    return [
        f"{one['file']} is not {one['package']} {one['version']}: its digest differs"
        for one in wanted
        if digest((STATIC / one["file"]).read_bytes()) != one["sha256"]
    ]


def fetch(wanted: list[dict[str, Any]]) -> list[str]:
    """Fetch all files; return a line for each that is not the one in the list, which is then left as it was."""
    wrong, licences = [], []
    for one in wanted:
        with tempfile.TemporaryDirectory() as folder:
            packed = pack(one["package"], one["version"], Path(folder))
            if one.setdefault("integrity", packed["integrity"]) != packed["integrity"]:
                wrong.append(f"{one['package']} {one['version']} is not the package that was fetched before")
                continue
            with tarfile.open(Path(folder) / packed["filename"]) as archive:
                content = read(archive, one["path"])
                licences.append((one, read(archive, one["licence_path"]).decode().strip()))
        if one.setdefault("sha256", digest(content)) != digest(content):
            wrong.append(f"{one['file']} differs from the one that was fetched before")
            continue
        (STATIC / one["file"]).write_bytes(content)
    if not wrong:
        LIST.write_text(json.dumps(wanted, indent=2) + "\n")
        texts = {f"{one['package']} {one['version']} ({one['licence']})": text for one, text in licences}
        LICENCES.write_text("\n\n".join(f"{name}\n\n{text}" for name, text in texts.items()) + "\n")
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
