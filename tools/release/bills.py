"""Bills of materials (CycloneDX), and the licences of what an image installs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.release.runs import ROOT, ReleaseError, new_venv, pip_install, run

ALLOWED = re.compile(
    r"apache|mit\b|bsd|isc\b|iscl|mpl|mozilla|python software|psf|unlicen[sc]e|cc0|zlib|cnri|hpnd|blueoak",
    re.IGNORECASE,
)
"""Licences that ask for nothing but their text, and file-level copyleft."""

KNOWN = {
    "intel-cmplr-lib-ur": "Intel's simplified licence; part of torch's CPU build",
    "intel-openmp": "Intel's simplified licence; part of torch's CPU build",
    "oss-harmony": "Apache-2.0 (its repository; the package does not say)",
    "prometheus-fastapi-instrumentator": "ISC (the package says only that it is OSI approved)",
    "pycountry": "LGPL-2.1-only; used unchanged, and replaceable",
    "setuptools": "MIT (its repository; the package does not say)",
}
"""Packages whose licence was looked up by hand, because it is another or is not said."""


def cyclonedx(folder: Path) -> Path:
    """Install the tool into an environment of its own, and return its command."""
    python = new_venv(folder)
    pip_install(python, "--require-hashes", "-r", ROOT / "requirements" / "release.lock")
    return folder / "bin" / "cyclonedx-py"


def of_environment(tool: Path, python: Path, out: Path) -> dict[str, Any]:
    """Write the bill of what is installed, with licences, and return it."""
    return _write(tool, out, "environment", "--gather-license-texts", python)


def of_lock(tool: Path, lock: Path, out: Path) -> dict[str, Any]:
    """Write the bill of a lock file, for an image that cannot be installed on this machine; and return it."""
    return _write(tool, out, "requirements", lock)


def _write(tool: Path, out: Path, *words: object) -> dict[str, Any]:
    options = ("--pyproject", ROOT / "pyproject.toml", "--output-reproducible", "--output-format", "JSON")
    run(tool, *words[:1], *options, "--output-file", out, *words[1:], cwd=ROOT)
    made: dict[str, Any] = json.loads(out.read_text())
    return made


def licences(bill: Mapping[str, Any], out: Path) -> int:
    """Write a table of the packages with their licences, and return how many packages it has.

    Raises:
        ReleaseError: a package says no licence, or one that asks for more than we accept.
    """
    rows, wrong = [], []
    for one in sorted(bill["components"], key=lambda one: one["name"].lower()):
        name = one["name"]
        said = KNOWN.get(name) or " / ".join(sorted(set(_said(one)))) or "not said"
        if name not in KNOWN and not ALLOWED.search(said):
            wrong.append(f"{name}: {said}")
        rows.append(f"| {name} | {one.get('version', '')} | {said} |")
    if wrong:
        names = "\n  ".join(wrong)
        raise ReleaseError(f"licences that nobody has looked at (tools/release/bills.py, KNOWN):\n  {names}")
    out.write_text("\n".join(["| package | version | licence |", "| --- | --- | --- |", *rows, ""]))
    return len(rows)


def _said(component: Mapping[str, Any]) -> list[str]:
    found = []
    for entry in component.get("licenses", ()):
        one = entry.get("license", {})
        if expression := entry.get("expression") or one.get("id") or one.get("name"):
            if expression.startswith(
                "declared license of"
            ):  # a text of the package's own: its first line says which
                expression = one.get("text", {}).get("content", "").strip().partition("\n")[0][:80]
            if expression and not expression.startswith("declared license file"):
                found.append(expression.removeprefix("License :: ").removeprefix("OSI Approved :: "))
    return found
