"""Which processes ``penstock up`` runs, with which command and environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import penstock
from broker.embedded import EmbeddedServer
from penstock.server.settings import UpSettings
from penstock.server.supervisor import ChildSpec, OnEnd

_STOP_FLOWER, _STOP_WORKERS, _STOP_API, _STOP_REDIS = range(4)  # who hangs on whom, last one last
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
    """

    settings: UpSettings
    redis_url: str
    embedded: EmbeddedServer | None
    port: int
    flower_port: int | None

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
            stop_rank=_STOP_REDIS,
            pass_fds=(self.embedded.lock_fd,),
        )

    def api(self) -> ChildSpec:
        """Return the api's process."""
        flags = ("--host", self.settings.host, "--port", str(self.port))
        return self._penstock("api", "api", flags, _STOP_API)

    def workers(self, on_end: OnEnd | None = None) -> list[ChildSpec]:
        """Return the workers' processes; ``on_end`` is called with the process id of one that has ended."""
        asked = self.settings
        flags = ["--engine", asked.engine, "--drain-timeout-s", str(asked.drain_timeout_s)]
        if asked.model is not None:
            flags += ["--model", asked.model]
        if asked.engine == "openai":
            flags += ["--openai-base-url", asked.openai_base_url]
        if asked.concurrency is not None:
            flags += ["--concurrency", str(asked.concurrency)]
        flags += [f"--engine-arg={arg}" for arg in asked.engine_args]
        names = ["worker"] if asked.workers == 1 else [f"worker-{n}" for n in range(1, asked.workers + 1)]
        specs = [
            self._penstock(
                name,
                "worker",
                (*flags, *(("--name", name) if asked.workers > 1 else ())),
                _STOP_WORKERS,
                asked.drain_timeout_s + _DRAIN_MARGIN_S,
            )
            for name in names
        ]
        # One that was drained (`penstock worker drain`) ends with status 0, and is meant to stay away.
        return [replace(spec, may_finish=True, on_end=on_end) for spec in specs]

    def flower(self) -> ChildSpec | None:
        """Return Flower's process."""
        if self.flower_port is None:
            return None
        flags = ("--address", "127.0.0.1", "--port", str(self.flower_port))
        return self._penstock("flower", "flower", flags, _STOP_FLOWER, 5.0)

    def _penstock(
        self, name: str, command: str, flags: tuple[str, ...], stop_rank: int, stop_timeout_s: float = 10.0
    ) -> ChildSpec:
        # -P: not the current folder, which may hold an api/ or jobs/ of its own.
        argv = (sys.executable, "-P", "-m", "penstock", command, *flags)
        return ChildSpec(
            name, argv, self.logs / f"{name}.log", self._env(), stop_rank, stop_timeout_s=stop_timeout_s
        )

    def _env(self) -> Mapping[str, str]:
        root = Path(penstock.__file__).resolve().parent.parent
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            "PENSTOCK_REDIS_URL": self.redis_url,
            "PENSTOCK_DATA_DIR": str(self.settings.data_dir),
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",  # a log that ends with what was said last
        }
