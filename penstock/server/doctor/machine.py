"""The machine: open files, shared memory, disk, ports, the modes of files with secrets."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx

from api.settings import ApiSettings
from penstock.cli._findings import Area, Finding
from penstock.cli._local import KEY_FILE
from penstock.server.doctor.sources import has_secret
from penstock.server.errors import UpStartError
from penstock.server.first_key import PEPPER_FILE
from penstock.server.ports import claim_port, http_address, reachable
from penstock.server.settings import UpSettings, fields

_AREA = Area("machine")
_PORTS = Area("ports")
_FILES = Area("files")

_GIB = 1 << 30
_SPARE_FILES = 256
_LITTLE_SPACE, _NO_SPACE = 10 * _GIB, _GIB
_SLOW_FLUSH_S = 0.02
_FLUSHES = 8
_SECRET_TEXTS = {"openai_api_key"}
_ANSWER_S = 2.0
_CGROUP = Path("/sys/fs/cgroup")
_SHM = Path("/dev/shm")  # noqa: S108 - shared memory, looked at only


def machine(settings: UpSettings, api: ApiSettings) -> Iterator[Finding]:
    """Look at limits, memory and disk."""
    yield from _open_files(api)
    yield from _shared_memory(settings)
    yield from _memory(settings)
    yield from _disk(settings.data_dir)


def _open_files(api: ApiSettings) -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # not on this system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = api.max_connections + _SPARE_FILES
    enough = soft == resource.RLIM_INFINITY or soft >= needed
    said = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft:,} (ulimit -n)"
    yield _AREA.bounded(
        "open files",
        said,
        bad=not enough,
        advice=f"The api takes up to {api.max_connections:,} connections (max_connections), each of which is a file. Raise"
        f" the limit to {needed:,} or more (LimitNOFILE in a unit; the hard limit is {hard:,}).",
    )


def _shared_memory(settings: UpSettings) -> Iterator[Finding]:
    if settings.engine != "vllm" or not _SHM.is_dir():
        return
    size = shutil.disk_usage(_SHM)
    several = (settings.tensor_parallel or 1) > 1
    yield _AREA.bounded(
        "shared memory",
        f"{_gib(size.free)} of {_gib(size.total)} free in {_SHM}",
        bad=size.free < _GIB,
        worse=several and size.free < _GIB // 4,
        advice="vLLM's processes exchange data there, most of all those of several GPUs. In a container, give it more:"
        " --shm-size 8g, ipc: host, or an emptyDir of medium Memory.",
    )


def _memory(settings: UpSettings) -> Iterator[Finding]:
    free = free_memory()
    if free is None:
        return
    said = f"{_gib(free)} free, {os.cpu_count()} CPUs"
    if settings.engine != "vllm" or settings.paced is not None:
        yield _AREA.ok("memory", said)
        return
    yield _AREA.bounded(
        "memory",
        said,
        bad=free < 4 * _GIB,
        worse=free < _GIB // 2,
        advice="vLLM alone needs about 2 GiB beside the model's weights on a CPU. For little memory:"
        " penstock up --profile edge.",
    )


def free_memory() -> int | None:
    """Return the bytes of memory that are free, within a container's limit too; None: this system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError):  # no limit, or another kind of cgroup
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        free = min(free, max(limit - used + _droppable(), 0))
    return free


def _droppable() -> int:
    """Return the bytes of files' pages that count as used, and that the kernel drops when memory is wanted."""
    with contextlib.suppress(OSError, ValueError):
        for line in (_CGROUP / "memory.stat").read_text().splitlines():
            name, _, size = line.partition(" ")
            if name == "inactive_file":
                return int(size)
    return 0


def _disk(data_dir: Path) -> Iterator[Finding]:
    folder = data_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    space = shutil.disk_usage(folder)
    yield _AREA.bounded(
        "disk",
        f"{_gib(space.free)} of {_gib(space.total)} free for {data_dir}",
        bad=space.free < _LITTLE_SPACE,
        worse=space.free < _NO_SPACE,
        advice="The queue's file, logs, files of batches and models are there (data_dir). When it is full, no job is"
        " accepted.",
    )
    if (took := _flush_s(folder)) is None:
        yield _AREA.fail(
            "disk flush",
            f"{folder} cannot be written",
            "Give this user the folder, or name another one (data_dir, --data-dir).",
        )
        return
    yield _AREA.bounded(
        "disk flush",
        f"{took * 1000:.1f} ms",
        bad=took > _SLOW_FLUSH_S,
        advice="With appendfsync always each accepted job waits for one, shared by those that come together. Put the queue"
        " onto a local SSD; network disks are slow here.",
    )


def _flush_s(folder: Path) -> float | None:
    """Return the median time to write a page through to the disk; None: the folder cannot be written."""
    times = []
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(_FLUSHES):
                began = time.perf_counter()
                file.write(b"\0" * 4096)
                file.flush()
                os.fsync(file.fileno())
                times.append(time.perf_counter() - began)
    except OSError:
        return None
    return sorted(times)[len(times) // 2]


def ports(settings: UpSettings, here: str | None) -> Iterator[Finding]:
    """Look whether the ports are free. ``here``: the address of the ``penstock up`` that runs here."""
    if here is not None:
        yield _PORTS.ok("api", f"penstock up of this folder serves at {here}")
        return
    scheme = "https" if settings.tls_cert_file else "http"
    running: str | None = None
    for what, host, port, option in _wanted(settings):
        if not port:
            continue
        try:
            claim_port(host, port, what, option)
        except UpStartError as error:
            if what == "api":
                running = _penstock_at(http_address(reachable(host), port, scheme))
            if running is None:
                advice = "penstock up does not start with it. Find its holder with `ss -ltnp`, or name another port."
                yield _PORTS.warn(what, str(error), advice)
            elif what == "api":
                yield _PORTS.ok(what, f"{host}:{port} is held by Penstock {running}")
            else:
                yield _PORTS.ok(what, f"{host}:{port} is taken, as it is while Penstock runs")
        else:
            yield _PORTS.ok(what, f"{host}:{port} is free")


def _wanted(settings: UpSettings) -> Iterator[tuple[str, str, int, str]]:
    """Yield what ``penstock up`` listens on: what it is for, host, port, and the option that names another."""
    yield "api", settings.host, settings.port, "--port"
    if settings.flower:
        yield "Flower", "127.0.0.1", settings.flower_port, "--flower-port, or --no-flower"
    if settings.metrics_port:
        yield "metrics", settings.metrics_host, settings.metrics_port, "metrics_port"


def _penstock_at(url: str) -> str | None:
    """Return the version of the Penstock that answers there; None: none does. Nothing secret is sent."""
    try:
        with httpx.Client(verify=False, trust_env=False, timeout=_ANSWER_S) as http:  # noqa: S501 - as above
            facts = http.get(url, headers={"accept": "application/json"}).json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError):
        return None
    ours = isinstance(facts, dict) and facts.get("name") == "Penstock"
    return str(facts.get("version")) if ours else None


def files(settings: UpSettings, api: ApiSettings, file: Path) -> Iterator[Finding]:
    """Look at the modes of files that hold secrets. ``file``: the settings file."""
    data = settings.data_dir
    secrets = [data / PEPPER_FILE, data / KEY_FILE, settings.tls_key_file or api.tls_key_file]
    if _holds_secrets(file):
        secrets.append(file)
    found = [path for path in secrets if path is not None and path.exists()]
    loose = False
    for path in found:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            loose = True
            yield _FILES.warn(
                path.name,
                f"{path} has mode {mode:04o}: others on this machine may read it",
                f"chmod 600 {path}",
            )
    if found and not loose:
        yield _FILES.ok("modes", f"only their owner reads {', '.join(path.name for path in found)}")
    if api.keys_required and api.key_pepper is None and not (data / PEPPER_FILE).exists():
        said = "keys are required, and there is none yet"
        yield _FILES.skipped("pepper", said, "penstock up makes one; penstock api needs key_pepper.")


def _holds_secrets(file: Path) -> bool:
    """Whether a settings file sets a secret, or an address or an option with a password; not one that cannot be read."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return any(_is_secret(name, value) for name, value in table.items())


def _is_secret(name: str, value: object) -> bool:
    if not value:
        return False
    if isinstance(value, dict):
        return _hidden(name) or any(_is_secret(key, one) for key, one in value.items())
    if isinstance(value, list):
        return has_secret([str(one) for one in value])
    return _hidden(name) or has_secret([str(value)])


def _hidden(name: str) -> bool:
    """Whether a setting is a secret as a whole; an address is one only if it has a password."""
    field = fields().get(name)
    return field is not None and ("SecretStr" in str(field.annotation) or name in _SECRET_TEXTS)


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
