"""The wheel in a clean environment, with the locked versions of its dependencies, on each Python that we support."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import penstock
from tests.environment import clean
from tests.processes import ROOT
from tests.unit.penstock.double import DoubleServer

pytestmark = pytest.mark.full

PYTHONS = ("3.11", "3.12", "3.13")

IMPORTS = """
import importlib, pkgutil, sys
import penstock
server = {"penstock.server", "penstock.cli.server"}
server |= {f"penstock.bench.{name}" for name in ("connection", "run", "target")}  # they need the extra `bench`
names = {one.name for one in pkgutil.walk_packages(penstock.__path__, "penstock.", onerror=lambda name: None)}
ours = sorted(name for name in names if not any(name == one or name.startswith(one + ".") for one in server))
for name in ours:
    if name != "penstock.__main__":
        importlib.import_module(name)
assert not {"api", "broker", "workers", "celery", "redis"} & sys.modules.keys()
print(len(ours), penstock.__file__)
"""


def candidates(version: str) -> Iterator[Path]:
    """Where this version's interpreter may be: here, on the path, among pyenv's, among uv's."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        yield Path(sys.executable)
    if found := shutil.which(f"python{version}"):
        yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or Path.home() / ".local" / "share" / "uv" / "python")
    for folder, pattern in ((pyenv / "versions", f"{version}.*"), (uv, f"cpython-{version}.*")):
        yield from (one / "bin" / f"python{version}" for one in sorted(folder.glob(pattern), reverse=True))


def interpreter(version: str) -> Path | None:
    """Return an interpreter of this version that runs; pyenv's shims may name one that does not."""
    script = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    for python in candidates(version):
        try:
            done = subprocess.run(
                [python, "-c", script], capture_output=True, text=True, check=False, timeout=30
            )
        except OSError:
            continue
        if (done.returncode, done.stdout.strip()) == (0, version):
            return python
    return None


def run(*argv: object, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command away from the checkout, with warnings as errors in its Python."""
    words = [str(word) for word in argv]
    kept = {name: value for name, value in clean().items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return subprocess.run(
        words, cwd=folder, env=kept | env, capture_output=True, text=True, check=False, timeout=280
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as a release does, with the build backend of this environment."""
    folder = tmp_path_factory.mktemp("dist")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-w", ".", ROOT)
    done = run(sys.executable, "-m", "pip", *build, folder=folder)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("penstock-*.whl")
    return built


def test_it_has_the_client_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {
        "penstock",
        f"penstock-{penstock.__version__}.dist-info",
    }
    assert {"penstock/py.typed", "penstock/cli/main.py"} <= set(names)


@pytest.mark.parametrize("version", PYTHONS)
def test_installed_in_a_clean_environment_it_works(wheel: Path, tmp_path: Path, version: str) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} here: not on PATH, not among pyenv's versions, not among uv's")
    done = run(python, "-m", "venv", "venv", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    there = tmp_path / "venv" / "bin"
    lock = ROOT / "requirements" / "client.lock"
    for what in (
        ("-r", lock),
        ("--no-deps", wheel),
    ):  # the lock has hashes, a file that was built just now has none
        install = ("install", "-q", "--disable-pip-version-check", *what)
        done = run(there / "python", "-m", "pip", *install, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    assert run(there / "python", "-m", "pip", "check", folder=tmp_path).returncode == 0

    strict = {"PYTHONWARNINGS": "error"}
    done = run(there / "penstock", "--version", folder=tmp_path, **strict)
    assert (done.stdout, done.stderr) == (f"penstock, version {penstock.__version__}\n", "")
    done = run(there / "penstock", "--help", folder=tmp_path, **strict)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Operate:" in done.stdout
    assert "worker run need the repository checkout):" in done.stdout
    done = run(there / "python", "-c", IMPORTS, folder=tmp_path, **strict)
    assert done.returncode == 0, done.stderr
    count, _, where = done.stdout.strip().partition(" ")
    assert int(count) > 40
    assert Path(where).is_relative_to(tmp_path / "venv")

    done = run(there / "penstock", "up", folder=tmp_path, **strict)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("penstock: up needs the repository checkout")
    with DoubleServer() as server, server.serving() as double:
        done = run(there / "penstock", "--url", double.url, "submit", "hello", folder=tmp_path, **strict)
        assert (done.returncode, done.stderr) == (0, "")
        assert [seen.path for seen in double.asked("/v1/jobs")] == ["/v1/jobs"]

        done = run(there / "penstock", "bench", double.url, folder=tmp_path, **strict)
        assert (done.returncode, "pip install 'penstock[bench]'" in done.stderr) == (2, True)
        done = run(there / "penstock", "--url", double.url, "doctor", "--text", folder=tmp_path, **strict)
        assert (done.returncode, done.stderr.count("\n")) == (0, 1)
        assert "this is an install of the client alone" in done.stdout
        assert "health: ready" in done.stdout
