"""Packages that the tests run from outside, each in an environment of its own, made when it is first needed.

They are the public suites as their authors publish them. Nothing of them is part of Penstock.
"""

from __future__ import annotations

import shutil
import subprocess
import venv
from pathlib import Path

import pytest

from tests.processes import ROOT

MADE = ROOT / "build" / "suites"


def python_package(*pins: str, program: str) -> Path:
    """Return a program of Python packages.

    Args:
        pins: requirements, each with its version.
        program: its name.
    """
    folder = _folder(pins)
    found = folder / "bin" / program
    if not found.exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--no-input"]
        _run([*pip, "--disable-pip-version-check", *pins])
    return found


def node_package(pin: str, program: str) -> list[str]:
    """Return the command of a program of a Node package; the test is skipped where Node is missing.

    Args:
        pin: its name and version, as ``name@1.2.3``.
        program: the path of its script in the package.
    """
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("node and npm are not installed here")
    folder = _folder((pin,))
    script = folder / "node_modules" / pin.rpartition("@")[0] / program
    if not script.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _run([npm, "install", "--silent", "--no-save", "--no-audit", "--no-fund", f"--prefix={folder}", pin])
    return [node, str(script)]


def _folder(pins: tuple[str, ...]) -> Path:
    return MADE / "+".join(pins).replace("==", "-").replace("@", "-")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-3000:]}"
