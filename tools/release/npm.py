"""The npm package: packed, installed into an empty project, and used there by both of Node's module systems."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tools.release.runs import ROOT, ReleaseError, run

SOURCE = ROOT / "clients" / "typescript"
PARTS = {
    "stream.mjs": 'import { Penstock } from "penstock";',
    "stream.cjs": 'const { Penstock } = require("penstock");',
}


def pack(out: Path, npm: Path, version: str) -> Path:
    """Build and pack the TypeScript SDK.

    Raises:
        ReleaseError: npm refuses, or its version is not ``version``.
    """
    said = json.loads((SOURCE / "package.json").read_text())["version"]
    if said != version:
        raise ReleaseError(f"clients/typescript/package.json has version {said}, not {version}")
    run(npm, "run", "build", cwd=SOURCE, PATH=_path(npm))
    made = json.loads(run(npm, "pack", "--json", "--pack-destination", out, cwd=SOURCE, PATH=_path(npm)))
    return out / str(made[0]["filename"])


def install(package: Path, npm: Path, folder: Path) -> None:
    """Install it into an empty project.

    Raises:
        ReleaseError: npm refuses.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "package.json").write_text('{"name": "empty", "private": true}\n')
    run(npm, "install", "--no-audit", "--no-fund", package, cwd=folder, PATH=_path(npm))


def _path(npm: Path) -> str:
    return f"{npm.parent}:/usr/bin:/bin"
