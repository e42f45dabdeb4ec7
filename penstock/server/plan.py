"""Which processes ``penstock up`` runs, with which command and environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import penstock
from penstock.server.child import ChildSpec, OnEnd
from penstock.server.fleet import Part
from penstock.server.ports import http_address
from penstock.server.settings import UpSettings
from penstock.server.valkey import EmbeddedServer

# The rows that end while the workers drain still become output files, so the coordinator outlives them; a caller who waits
# for its answer is connected to the api, so the api outlives both.
_STOP_FLOWER, _STOP_WORKERS, _STOP_COORDINATOR, _STOP_API, _STOP_REDIS = range(5)
_API_GRACE_S = 5.0  # the workers are gone by then, so longer calls would wait for nothing
_API_MARGIN_S = 5.0
_DRAIN_MARGIN_S = 15.0  # beyond the drain: giving jobs back, and the engine's own end


@dataclass(frozen=True, slots=True)
class Plan:
    """The children, and the addresses they serve on.

    Attributes:
        settings: what was asked for.
        redis_url: the server in use.
        embedded: our own server, prepared; None where one was named.
        port: the api's.
        flower_port: Flower's; None without Flower.
        parts: the workers.
        api_grace_s: how long the api waits for open calls at its end; None: not given.
        pepper: for the api, if that cannot find it by itself.
    """

    settings: UpSettings
    redis_url: str
    embedded: EmbeddedServer | None
    port: int
    flower_port: int | None
    parts: Sequence[Part]
    api_grace_s: float | None = None
    pepper: str | None = field(default=None, repr=False)

    @property
    def logs(self) -> Path:
        """The folder of the log files."""
        return self.settings.data_dir / "logs"

    def redis(self) -> ChildSpec | None:
        """Return the embedded server's process."""
        if self.embedded is None:
            return None
        return ChildSpec(
            name="redis",
            argv=tuple(self.embedded.argv),
            log_path=self.embedded.log_path,
            env=self.embedded.env,
            stop_rank=_STOP_REDIS,
            pass_fds=(self.embedded.lock_fd,),
        )

    def api(self) -> ChildSpec:
        """Return the api's process."""
        flags: tuple[str, ...] = ("--host", self.settings.host, "--port", str(self.port))
        if self.settings.without_keys:
            flags += ("--without-keys",)
        if self.settings.require_keys:
            flags += ("--require-keys",)
        if self.settings.coordinator_in_api:
            flags += ("--with-coordinator",)
        flags += tls_flags(self.settings)
        env = dict(self._redirect)
        if self.pepper is not None:
            env["PENSTOCK_KEY_PEPPER"] = self.pepper
        if self.flower_port is not None:
            env["PENSTOCK_FLOWER_URL"] = http_address("127.0.0.1", self.flower_port)
        grace_s = _API_GRACE_S if self.api_grace_s is None else self.api_grace_s
        env["PENSTOCK_SHUTDOWN_GRACE_S"] = str(grace_s)
        return _child("api", ("api", *flags), self.logs, env, _STOP_API, grace_s + _API_MARGIN_S)

    def coordinator(self, on_end: OnEnd | None = None) -> ChildSpec | None:
        """Return the coordinator's process; None: the api has it. Its metrics' port is free: a fixed one is the workers'.

        ``on_end`` is called with its process id when it has ended.
        """
        if self.settings.coordinator_in_api:
            return None
        flags = ("--metrics-port", "0")
        child = self._penstock("coordinator", "coordinator", flags, _STOP_COORDINATOR, 15.0)
        return replace(child, on_end=on_end)

    def worker(self, part: Part, on_end: OnEnd | None = None) -> ChildSpec:
        """Return a worker's process; ``on_end`` is called with its process id when it has ended."""
        return worker_child(part, self.logs, self._redirect, on_end)

    def flower(self) -> ChildSpec | None:
        """Return Flower's process."""
        if self.flower_port is None:
            return None
        flags = ("--address", "127.0.0.1", "--port", str(self.flower_port))
        return self._penstock("flower", "flower", flags, _STOP_FLOWER, 5.0)

    def _penstock(
        self, name: str, command: str, flags: tuple[str, ...], stop_rank: int, stop_timeout_s: float = 10.0
    ) -> ChildSpec:
        return _child(name, (command, *flags), self.logs, self._redirect, stop_rank, stop_timeout_s)

    @property
    def _redirect(self) -> Mapping[str, str]:
        return {"PENSTOCK_REDIS_URL": self.redis_url, "PENSTOCK_DATA_DIR": str(self.settings.data_dir)}


def tls_flags(settings: UpSettings) -> tuple[str, ...]:
    """Return the options that give the api its files of TLS."""
    names = ("tls_cert_file", "tls_key_file", "tls_client_ca_file")
    given = ((f"--{name.replace('_', '-')}", getattr(settings, name)) for name in names)
    return tuple(word for option, path in given if path is not None for word in (option, str(path)))


def worker_child(
    part: Part, logs: Path, env: Mapping[str, str] | None = None, on_end: OnEnd | None = None
) -> ChildSpec:
    """Return a worker's process. ``env``: what its environment has beyond ours."""
    stop_s = part.settings.drain_timeout_s + _DRAIN_MARGIN_S
    child = _child(part.name, ("worker", "run", *part.flags), logs, env or {}, _STOP_WORKERS, stop_s)
    # One that was drained (`penstock worker drain`) ends with status 0, and is meant to stay away.
    return replace(child, may_finish=True, on_end=on_end)


def _child(
    name: str,
    command: tuple[str, ...],
    logs: Path,
    env: Mapping[str, str],
    stop_rank: int,
    stop_timeout_s: float,
) -> ChildSpec:
    # -P: not the current folder, which may hold an api/ or jobs/ of its own.
    argv = (sys.executable, "-P", "-m", "penstock", *command)
    root = Path(penstock.__file__).resolve().parent.parent
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    whole = {
        **os.environ,
        **env,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",  # a log that ends with what was said last
    }
    return ChildSpec(name, argv, logs / f"{name}.log", whole, stop_rank, stop_timeout_s=stop_timeout_s)
