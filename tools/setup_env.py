#!/usr/bin/env python3
"""Sets up ``.venv`` for this checkout: what ``make up``, ``make test`` and ``make lint`` need.

    python3 tools/setup_env.py [--browser] [--containers] [--prometheus] [--shells]
    python3 tools/setup_env.py --image api|worker-cpu|worker-gpu

The second is for the Dockerfiles: what runs, without what tests.

Standard library only. The flavour is ``gpu`` where an NVIDIA driver is present and ``cpu`` elsewhere;
``PENSTOCK_FLAVOUR=cpu|gpu|client`` overrules. Packages come from the lock file of the flavour, with the
indexes, wheels and mirrors that pip is configured for. When nothing changed since the last call it returns at
once; an interrupted call is repaired by the next.

Exit status: 0, or 1 with one message that says what to do.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "penstock-setup.json"
LOG = VENV / "penstock-setup.log"
OLDEST_PYTHON = (3, 11)

TORCH_VERSION = "2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CONTAINERS = (
    "aardvark-dns",
    "buildah",
    "catatonit",
    "curl",
    "debootstrap",
    "fuse-overlayfs",
    "iptables",
    "netavark",
    "podman",
    "runc",
)
PROMETHEUS = VENV / "tools" / "prometheus"
LOG_TAIL_LINES = 15
SAY_EVERY_S = 15.0  # while a command is silent, since its output is in the log


class SetupError(Exception):
    """Set-up cannot go on. The message is for the person who typed the command."""


def say(message: str) -> None:
    """Print a progress line."""
    print(f"setup: {message}", flush=True)


def has_nvidia_driver() -> bool:
    """Whether an NVIDIA driver is present. Its library counts: containers have no /proc entry."""
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        return True
    lib_dirs = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib/wsl/lib")
    return any((Path(lib_dir) / "libnvidia-ml.so.1").exists() for lib_dir in lib_dirs)


def pick_flavour() -> str:
    """Return ``cpu``, ``gpu`` or ``client``; ``PENSTOCK_FLAVOUR`` overrules the look at the machine."""
    asked = os.environ.get("PENSTOCK_FLAVOUR", "")
    if asked in {"cpu", "gpu", "client"}:
        return asked
    if asked:
        raise SetupError(f"PENSTOCK_FLAVOUR={asked!r} is not one of cpu, gpu, client")
    return "gpu" if has_nvidia_driver() else "cpu"


def fingerprint(flavour: str) -> str:
    """Hash everything that decides what is installed: after a change the next call installs again."""
    digest = hashlib.sha256()
    lock = ROOT / "requirements" / f"{flavour}.lock"
    for path in (lock, ROOT / "pyproject.toml", ROOT / "penstock" / "_version.py", Path(__file__)):
        digest.update(path.read_bytes() + b"\0")
    digest.update(f"{flavour} {sys.version} {sys.base_prefix} {platform.machine()} {ROOT}".encode())
    return digest.hexdigest()


def read_stamp() -> dict[str, str]:
    """Return what the last call left behind, or an empty dict."""
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def write_stamp(**fields: str) -> None:
    """Replace the stamp in one step, so that an interrupted call leaves the old one or the new one."""
    fresh = STAMP.with_suffix(".new")
    fresh.write_text(json.dumps(fields))
    fresh.replace(STAMP)


def logged(command: list[str], log: IO[bytes], env: dict[str, str] | None = None, cwd: Path = ROOT) -> int:
    """Run a command with its output in the log and nothing to read. Returns its exit status.

    It inherits the lock: a pip that outlives a killed set-up keeps the next one waiting.
    """
    with subprocess.Popen(
        command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=cwd, env=env, close_fds=False
    ) as running:
        started = time.monotonic()
        while True:
            try:
                return running.wait(SAY_EVERY_S)
            except KeyboardInterrupt:
                running.kill()
                raise
            except subprocess.TimeoutExpired:
                say(
                    f"still at it after {time.monotonic() - started:.0f} s; {count_installed()} packages are installed"
                )


def count_installed() -> int:
    """Count the packages in the venv."""
    return sum(1 for _ in VENV.glob("lib/python*/site-packages/*.dist-info"))


def run_logged(command: list[str], what: str) -> None:
    """Run a command with its output in the log; on failure raise with the end of that output."""
    with LOG.open("ab") as log:
        log.write(f"\n$ {' '.join(command)}\n".encode())
        log.flush()
        start = log.tell()
        status = logged(command, log)
    if status:
        with LOG.open("rb") as log:
            log.seek(start)
            tail = log.read().decode(errors="replace").strip().splitlines()[-LOG_TAIL_LINES:]
        quoted = "\n".join(f"    {line}" for line in tail)
        raise SetupError(f"{what} failed. The end of pip's output:\n{quoted}\n  All of it: {LOG}")


def install_lock(lock: Path) -> None:
    """Install a lock file's packages; pip refuses a file whose hash is not in it."""
    pip_install("installing the packages", "--no-deps", "--require-hashes", "-r", str(lock))


def pip_install(what: str, *args: str) -> None:
    """Run ``pip install`` in the venv. Byte code is compiled later, on all cores."""
    options = ["--disable-pip-version-check", "--no-input", "--no-compile"]
    run_logged([str(PYTHON), "-m", "pip", "install", *options, *args], what)


def make_venv(flavour: str) -> None:
    """Create the venv, or keep a usable one; one of another Python or flavour is made anew."""
    stamp = read_stamp()
    same = stamp.get("flavour", flavour) == flavour and stamp.get("python", sys.version) == sys.version
    check = [str(PYTHON), "-m", "pip", "--version"]
    if same and PYTHON.exists() and subprocess.run(check, capture_output=True, check=False).returncode == 0:
        return
    say(f"creating .venv with Python {platform.python_version()}")
    shutil.rmtree(VENV, ignore_errors=True)
    done = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, text=True, check=False)
    if done.returncode:
        hint = "On Debian or Ubuntu: apt-get install python3-venv"
        raise SetupError(f"cannot create {VENV}: {(done.stdout + done.stderr).strip()}\n  {hint}")


def repair() -> None:
    """Forget the packages that a killed pip left half installed.

    pip writes a package's INSTALLER file after the package's other files, but takes the package for installed
    without it too. Removing the metadata makes pip install it again, over the files that are there.
    """
    for site in VENV.glob("lib/python*/site-packages"):
        for info in site.glob("*.dist-info"):
            if not ((info / "INSTALLER").exists() and (info / "RECORD").exists()):
                shutil.rmtree(info)
        for leftover in site.glob("~*"):  # pip's name for what it was about to replace
            shutil.rmtree(leftover, ignore_errors=True)


def install_torch_cpu() -> None:
    """Install the CPU build of torch: from where pip is configured to look, else from PyTorch's own index.

    torchvision, torchaudio and torchcodec stay out: their builds in the plain registry are for CUDA, and
    break ``import transformers`` beside a CPU torch.
    """
    local = platform.system() == "Darwin" or platform.machine() in {"ppc64le", "riscv64"}
    wanted = f"torch=={TORCH_VERSION}" if local else f"torch=={TORCH_VERSION}+cpu"
    try:
        pip_install(wanted, "--no-deps", wanted)
    except SetupError:
        say(f"{wanted} is not where pip is configured to look; trying PyTorch's own index of CPU wheels")
    else:
        return
    try:
        pip_install(wanted, "--no-deps", "--retries", "2", "--index-url", TORCH_CPU_INDEX, wanted)
    except SetupError as error:
        raise SetupError(
            f"no CPU build of torch: neither pip's configured indexes nor {TORCH_CPU_INDEX} gave {wanted}.\n"
            f"  What to do: download its wheel for Python {sys.version_info[0]}.{sys.version_info[1]}"
            " on a machine that can, and point pip at its folder:\n"
            "      PIP_FIND_LINKS=/folder/with/the/wheel make up\n"
            f"  or configure an index that has it (pip config set global.extra-index-url URL).\n  {error}"
        ) from error


def install(flavour: str) -> None:
    """Install everything of a flavour, in order, with a line for each step."""
    lock = Path("requirements") / f"{flavour}.lock"
    packages = sum(line[:1].isalnum() for line in (ROOT / lock).read_text().splitlines())
    if flavour == "cpu":
        set_up_libnuma()
        say("CPU build of torch (190 MB)")
        install_torch_cpu()
    size = "; .venv grows to 3.5 GB" if flavour == "cpu" else ""
    say(f"{packages} packages from {lock}{size}; the first time this takes minutes")
    install_lock(lock)
    say("penstock itself, editable")
    if flavour == "client":
        pip_install("installing penstock", "--no-deps", "-e", ".")
    else:  # the build backend is in the lock: no second download, and it works without a network
        pip_install("installing penstock", "--no-deps", "--no-build-isolation", "-e", ".")
    say("compiling byte code")
    with LOG.open("ab") as log:  # the status is not looked at: packages ship files of other Pythons' syntax
        logged([str(PYTHON), "-m", "compileall", "-q", "-j", "0", str(VENV / "lib")], log)


# With its guard: the processes that vLLM spawns import it anew.
LAUNCHER = """#!{python}
import sys

from penstock.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
"""


def set_up_image(image: str) -> None:
    """Make a venv for a container image: the packages that run, and this folder as where our own are found."""
    lock = Path("requirements") / f"image-{image}.lock"
    if not (ROOT / lock).exists():
        raise SetupError(f"no such image: {image} (there is no {lock})")
    make_venv(image)
    LOG.write_bytes(b"")
    if image == "worker-cpu":
        install_torch_cpu()
    install_lock(lock)
    site = next(VENV.glob("lib/python*/site-packages"))
    (site / "penstock-root.pth").write_text(f"{ROOT}\n")
    launcher = VENV / "bin" / "penstock"
    launcher.write_text(LAUNCHER.format(python=PYTHON))
    launcher.chmod(0o755)
    with LOG.open("ab") as log:  # the status is not looked at: as in install()
        logged([str(PYTHON), "-m", "compileall", "-q", "-j", "0", str(VENV / "lib")], log)
    LOG.unlink()


def set_up() -> None:
    """Bring ``.venv`` up to date with this checkout."""
    flavour = pick_flavour()
    wanted = fingerprint(flavour)
    if read_stamp().get("fingerprint") == wanted and PYTHON.exists():
        return
    started = time.monotonic()
    say(f"flavour {flavour} (NVIDIA driver: {'yes' if has_nvidia_driver() else 'no'})")
    make_venv(flavour)
    repair()
    write_stamp(flavour=flavour, python=sys.version)  # without a fingerprint: under way
    LOG.write_bytes(b"")
    install(flavour)
    write_stamp(flavour=flavour, python=sys.version, fingerprint=wanted)
    say(f"done in {time.monotonic() - started:.0f} s")


def apt_install(*packages: str) -> bool:
    """Install system packages where that is possible: as root, on Debian's kind. Returns whether it did."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        return False
    say(f"installing the system package {', '.join(packages)} (apt-get)")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with LOG.open("ab") as log:
        logged(["apt-get", "update"], log, env)  # a stale or partial list may do: the install decides
        return logged(["apt-get", "install", "-y", "--no-install-recommends", *packages], log, env) == 0


def set_up_libnuma() -> None:
    """Make sure of libnuma, which vLLM's CPU build is linked to and does not bring along."""
    if platform.system() != "Linux":
        return
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        if not apt_install("libnuma1"):
            hint = "Debian, Ubuntu: apt-get install libnuma1; Fedora: dnf install numactl-libs"
            raise SetupError(f"the system library libnuma is missing; vLLM needs it. {hint}") from None


def set_up_browser() -> None:
    """Make sure of Chromium for the browser tests; say what to do where it cannot be installed."""
    if not any(map(shutil.which, BROWSERS)) and not apt_install("chromium"):
        say("the browser tests need Chromium: install it (Debian: apt-get install chromium), then test again")


def set_up_shells() -> None:
    """Make sure of fish, for the test of what it completes; bash is everywhere."""
    if not shutil.which("fish") and not apt_install("fish"):
        say("the test of fish's completion is skipped: there is no fish")


def set_up_containers() -> None:
    """Make sure of Podman and debootstrap, for the test of the compose file."""
    if not (shutil.which("podman") and shutil.which("debootstrap")) and not apt_install(*CONTAINERS):
        raise SetupError(f"the compose file's test needs these packages of Debian: {', '.join(CONTAINERS)}")


def set_up_prometheus() -> None:
    """Make sure of Prometheus and promtool for the tests of dashboards and rules.

    Debian's package is unpacked into the venv rather than installed: installing it would start a server on the machine.
    """
    if (
        all(map(shutil.which, ("prometheus", "promtool")))
        or (PROMETHEUS / "usr" / "bin" / "promtool").exists()
    ):
        return
    hint = (
        "install prometheus and promtool (Debian: apt-get install prometheus; macOS: brew install prometheus)"
    )
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        say(f"the tests of dashboards and rules need Prometheus: {hint}, then test again")
        return
    say("unpacking Debian's package prometheus into .venv/tools (20 MB)")
    with tempfile.TemporaryDirectory() as folder, LOG.open("ab") as log:
        download = ["apt-get", "download", "prometheus"]
        if logged(download, log, cwd=Path(folder)) and os.geteuid() == 0:
            logged(["apt-get", "update"], log)
            logged(download, log, cwd=Path(folder))
        unpacked = Path(folder) / "unpacked"
        for package in Path(folder).glob("prometheus_*.deb"):
            if logged(["dpkg-deb", "-x", str(package), str(unpacked)], log) == 0:
                PROMETHEUS.parent.mkdir(exist_ok=True)
                shutil.copytree(unpacked, PROMETHEUS, symlinks=True, dirs_exist_ok=True)
                return
    say(f"the package prometheus could not be had; see {LOG}. Or {hint}, then test again")


def main() -> None:
    """Parse the command line, hold off a second call meanwhile, set up."""
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError(
            f"Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer is needed; {sys.executable} is"
            f" {platform.python_version()}.\n  Name another: make PYTHON=python3.12 up"
        )
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--browser", action="store_true", help="Chromium too, for the browser tests")
    parser.add_argument("--containers", action="store_true", help="Podman too, for the compose file's test")
    parser.add_argument(
        "--image", metavar="NAME", help="for a container image: api, worker-cpu or worker-gpu"
    )
    parser.add_argument(
        "--prometheus", action="store_true", help="Prometheus too, for the tests of what it reads"
    )
    parser.add_argument("--shells", action="store_true", help="fish too, for the test of completion")
    args = parser.parse_args()
    if Path(sys.prefix).resolve() == VENV:  # called from the activated venv, which may have to be made anew
        base = getattr(sys, "_base_executable", sys.executable)
        os.execv(base, [base, *sys.argv])  # noqa: S606 - the same script under the venv's own base Python
    with Path(__file__).open("rb") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this checkout is under way; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if args.image:
            set_up_image(args.image)
            return
        set_up()
        if args.browser:
            set_up_browser()
        if args.shells:
            set_up_shells()
        if args.containers:
            set_up_containers()
        if args.prometheus:
            set_up_prometheus()


if __name__ == "__main__":
    try:
        main()
    except SetupError as problem:
        sys.exit(f"setup: {problem}")
    except KeyboardInterrupt:
        sys.exit("setup: interrupted; the next call goes on from here")
