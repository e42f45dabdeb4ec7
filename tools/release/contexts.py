"""The build contexts of the images: what ``.dockerignore`` lets in, set up as the Dockerfile does, and run."""

from __future__ import annotations

import gzip
import re
import shutil
import sys
import tarfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from tools.release.runs import ROOT, ReleaseError, run

_COPY = re.compile(r"(?m)^COPY (?!--from)(?P<what>\S+(?: \S+)*) (?P<to>\S+)$")


def files() -> list[str]:
    """Return the files of the context: committed, and named by ``.dockerignore``, which shuts out everything else."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in lines if line.startswith("!")]
    tracked = run("git", "ls-files", cwd=ROOT).splitlines()
    return sorted(
        name for name in tracked if any(fnmatch(name, one) or name.startswith(f"{one}/") for one in allowed)
    )


def pack(dockerfile: Path, out: Path) -> Path:
    """Write the context with its Dockerfile as a tar file: ``docker build -f deploy/NAME - < FILE`` takes it.

    Raises:
        ReleaseError: the Dockerfile copies what is not in it.
    """
    names = [*files(), dockerfile.relative_to(ROOT).as_posix()]
    check_copies(dockerfile.read_text(), dockerfile, names)
    path = out / f"context-{dockerfile.name.partition('.')[0]}.tar.gz"
    with gzip.GzipFile(path, "wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for name in names:
            archive.add(ROOT / name, name, recursive=False, filter=_plain)
    return path


def check_copies(text: str, dockerfile: Path, names: Sequence[str]) -> None:
    """Check that what a Dockerfile copies is among the names of its context.

    Raises:
        ReleaseError: it is not.
    """
    for copied in _COPY.finditer(text):
        for what in copied["what"].split():
            pattern = re.sub(r"\$\{\w+\}", "*", what)
            if not any(fnmatch(name, pattern) or name.startswith(f"{what}/") for name in names):
                raise ReleaseError(f"{dockerfile.name} copies {what}, which its context does not have")


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def set_up(context: Path, image: str, folder: Path, ours: str = "api, workers") -> Path:
    """Unpack a context and install into it what the image installs.

    Args:
        ours: packages of ours that the image runs.

    Returns:
        The environment's Python. Its ``penstock`` is what the image runs.

    Raises:
        ReleaseError: it cannot be set up, or lacks a package of ours.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(context) as archive:
        archive.extractall(folder, filter="data")
    run(sys.executable, "tools/setup_env.py", "--image", image, cwd=folder, timeout_s=1800)
    python = folder / ".venv" / "bin" / "python"
    run(python, "-m", "pip", "check", "--disable-pip-version-check", cwd=folder)
    code = f"import {ours}, penstock; print(penstock.__file__)"
    found = run(python, "-c", code, cwd=folder.parent).strip()
    if Path(found).parent.parent != folder.resolve():
        raise ReleaseError(f"the image's Python finds our packages in {found}")
    return python
