"""Bills of materials (CycloneDX), and the licences of what an image installs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.release.runs import ROOT, ReleaseError, new_venv, pip_install, run

ALLOWED = re.compile(
    r"apache([ -](software|licen[sc]e,?|version|v?2(\.0)?))*( WITH LLVM-exception)?"
    r"|(the )?mit(-0|-cmu)?( licen[sc]e)?( \(mit\))?"
    r"|0bsd|((new|modified|simplified|[23]-clause) )?bsd([ -][23]-clause)?( licen[sc]e)?"
    r"|isc( licen[sc]e)?( \(iscl\))?"
    r"|mpl[ -]2\.0|mozilla public license 2\.0 \(mpl 2\.0\)"
    r"|psf-2\.0|python-2\.0(\.1)?|cnri-python|python software foundation license"
    r"|(the )?unlicense( \(unlicense\))?|cc0-1\.0|zlib|hpnd|blueoak-1\.0\.0|bsl-1\.0",
    re.IGNORECASE,
)
"""Names of licences that ask for nothing but their text, and of file-level copyleft."""

SAYS_NOTHING = {"Dual License", "OSI Approved", "License :: OSI Approved", "DFSG approved"}
"""Said beside the names of licences."""

KNOWN = {
    "intel-cmplr-lib-ur": "Intel's simplified licence; part of torch's CPU build",
    "intel-openmp": "Intel's simplified licence; part of torch's CPU build",
    "oss-harmony": "Apache-2.0 (its repository; the package does not say)",
    "prometheus-fastapi-instrumentator": "ISC (the package says only that it is OSI approved)",
    "pycountry": "LGPL-2.1-only; used unchanged, and replaceable",
    "setuptools": "MIT (its repository; the package does not say)",
    "supervisor": "BSD-derived, of repoze: as BSD-3-Clause, and changed files must say so",
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
        parts = sorted(set(_said(one)))
        said = KNOWN.get(name) or " / ".join(parts) or "not said"
        telling = set(parts) - SAYS_NOTHING
        if name not in KNOWN and not (telling and all(map(allowed, telling))):
            wrong.append(f"{name}: {said}")
        rows.append(f"| {name} | {one.get('version', '')} | {said} |")
    if wrong:
        names = "\n  ".join(wrong)
        raise ReleaseError(f"licences that nobody has looked at (tools/release/bills.py, KNOWN):\n  {names}")
    out.write_text("\n".join(["| package | version | licence |", "| --- | --- | --- |", *rows, ""]))
    return len(rows)


def allowed(said: str) -> bool:
    """Whether a name or an SPDX expression is allowed: each part of an AND, and one part of an OR."""
    said = said.strip()
    if ALLOWED.fullmatch(said):
        return True
    for word, enough in (("OR", any), ("AND", all)):
        parts = _split(said, word)
        if len(parts) > 1:
            return enough(map(allowed, parts))
    return said.startswith("(") and said.endswith(")") and allowed(said[1:-1])


def _split(said: str, word: str) -> list[str]:
    """Split an expression at a word outside of parentheses."""
    parts, depth = [""], 0
    for one in re.split(r"([()]|\s+)", said):
        depth += (one == "(") - (one == ")")
        if one.upper() == word and not depth:
            parts.append("")
        else:
            parts[-1] += one
    return parts


def _said(component: Mapping[str, Any]) -> list[str]:
    """Return what a package declares; the first lines of its texts only if it declares nothing."""
    found: list[str] = []
    texts: list[str] = []
    for entry in component.get("licenses", ()):
        one = entry.get("license", {})
        if expression := entry.get("expression") or one.get("id") or one.get("name"):
            if expression.startswith("declared license of"):  # a text in place of a name
                text = one.get("text", {}).get("content", "").strip().partition("\n")[0][:80]
                (found if re.search(r"gpl|general public", text, re.IGNORECASE) else texts).append(text)
            elif not expression.startswith("declared license file"):
                found.append(expression.removeprefix("License :: ").removeprefix("OSI Approved :: "))
    return found or [text for text in texts if text]
