"""The wheel and the source distribution: built twice to the same bytes, and tried where nothing else is installed."""

from __future__ import annotations

import hashlib
import sys
import tarfile
from pathlib import Path

from tools.release.runs import ROOT, ReleaseError, new_venv, pip_install, run


def build(out: Path) -> tuple[Path, Path]:
    """Build both into ``out``: the wheel a second time out of the source distribution.

    Raises:
        ReleaseError: the two wheels differ.
    """
    epoch = run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    for folder, target in ((ROOT, "sdist"), (ROOT, "wheel")):
        run(
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "-t",
            target,
            "-d",
            out,
            cwd=folder,
            SOURCE_DATE_EPOCH=epoch,
        )
    sdist, wheel = next(out.glob("penstock-*.tar.gz")), next(out.glob("penstock-*.whl"))
    again = out / "again"
    with tarfile.open(sdist) as archive:
        archive.extractall(again, filter="data")
    unpacked = next(again.iterdir())
    run(
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-t",
        "wheel",
        "-d",
        again,
        cwd=unpacked,
        SOURCE_DATE_EPOCH=epoch,
    )
    made = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, next(again.glob("*.whl")))]
    if len(set(made)) > 1:
        raise ReleaseError(f"the wheel of the checkout and that of {sdist.name} differ")
    return wheel, sdist


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel with the locked versions into a new environment, and return its ``penstock``.

    Raises:
        ReleaseError: pip refused, or it does not say the wheel's version.
    """
    python = new_venv(folder)
    pip_install(python, "--require-hashes", "-r", ROOT / "requirements" / "client.lock")
    pip_install(python, "--no-deps", wheel)
    command = folder / "bin" / "penstock"
    said = run(command, "--version", cwd=folder)
    if wheel.name.split("-")[1] not in said:
        raise ReleaseError(f"penstock --version says {said.strip()!r}, and the wheel is {wheel.name}")
    return command
