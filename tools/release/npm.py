"""The npm package: packed, installed into an empty project, and used there by both of Node's module systems."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tools.release.runs import ROOT, ReleaseError, run
from tools.setup_node import node_folder

SOURCE = ROOT / "clients" / "typescript"
TALK = """
const client = new Penstock({ baseUrl: process.argv[2] });
(async () => {
  const input = { model: "simulated", messages: [{ role: "user", content: "Hello" }] };
  const job = await client.submit({ input, stream: true });
  let text = "";
  for await (const piece of client.stream(job.id)) text += piece;
  if (!text) throw new Error("the stream was empty");
  const done = await client.wait(job.id);
  console.log(done.state, text.length);
})();
"""
PROGRAMS = {
    "talk.mjs": 'import { Penstock } from "penstock";' + TALK,
    "talk.cjs": 'const { Penstock } = require("penstock");' + TALK,
}
"""By name, programs that submit a job and read its stream: one for each of Node's module systems."""


def check(out: Path, base: str, version: str, folder: Path) -> Path:
    """Pack the SDK, install it into an empty project, and have both programs get an answer from a server.

    Raises:
        ReleaseError: what failed.
    """
    npm = _npm()
    package = pack(out, npm, version)
    install(package, npm, folder)
    for name, program in PROGRAMS.items():
        (folder / name).write_text(program)
        said = run(npm.parent / "node", name, base, cwd=folder, PATH=_path(npm))
        if not said.startswith("succeeded "):
            raise ReleaseError(f"{name} printed {said.strip()!r}")
    return package


def pack(out: Path, npm: Path, version: str) -> Path:
    """Build and pack the TypeScript SDK, into a folder of its own: the chart's package has the same name.

    Raises:
        ReleaseError: npm refuses, or its version is not ``version``.
    """
    said = json.loads((SOURCE / "package.json").read_text())["version"]
    if said != version:
        raise ReleaseError(f"clients/typescript/package.json has version {said}, not {version}")
    folder = out / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    run(npm, "pack", "--pack-destination", folder, cwd=SOURCE, PATH=_path(npm))  # its prepack builds
    return folder / f"penstock-{version}.tgz"


def install(package: Path, npm: Path, folder: Path) -> None:
    """Install it into an empty project.

    Raises:
        ReleaseError: npm refuses.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "package.json").write_text('{"name": "empty", "private": true}\n')
    run(npm, "install", "--no-audit", "--no-fund", package, cwd=folder, PATH=_path(npm))


def _npm() -> Path:
    """Return the npm that ``tools/setup_node.py`` found or installed."""
    folder = node_folder()
    if folder is None:
        raise ReleaseError("there is no Node that will do; python3 tools/setup_node.py installs one")
    return folder / "npm"


def _path(npm: Path) -> str:
    return f"{npm.parent}:/usr/bin:/bin"
