"""Commands in clean environments: none of the caller's Python paths and settings, output only if they fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

_PASSED_ON = re.compile(
    r"PATH|LANG|HOME|TMPDIR|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE|NODE_EXTRA_CA_CERTS"
    r"|(HTTPS?|ALL|NO)_PROXY|(https?|all|no)_proxy|PIP_\w+|(?i:npm_config_)\w+"
)
"""How this machine reaches package registries, beside what every program needs."""


class ReleaseError(Exception):
    """Something is not fit to be released. The message says what."""


def run(*words: object, cwd: Path, timeout_s: float = 600, **env: str) -> str:
    """Run a command and return its standard output.

    Raises:
        ReleaseError: it failed, with the end of what it said; or it did not end in time.
    """
    kept = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    argv = [str(word) for word in words]
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=kept | env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise ReleaseError(f"{' '.join(argv)} did not end within {timeout_s:g} s") from error
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise ReleaseError(f"{' '.join(argv)} failed with status {done.returncode}:\n{said}")
    return done.stdout


def new_venv(folder: Path) -> Path:
    """Make an empty virtual environment, and return its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=True)
    return folder / "bin" / "python"


def pip_install(python: Path, *words: object) -> None:
    """Install into a virtual environment.

    Raises:
        ReleaseError: pip refused.
    """
    run(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        *words,
        cwd=ROOT,
    )


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say what is done, and how it ended."""
    print(f"release: {name} … ", end="", flush=True)
    try:
        yield
    except Exception:
        print("FAILED", flush=True)
        raise
    print("ok", flush=True)
    sys.stdout.flush()
