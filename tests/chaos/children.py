"""Processes under test: started, watched, signalled and ended by pid, with a memory of what was done to each."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from penstock.server.guardian import die_with_parent
from tests.environment import clean
from tests.processes import ROOT

_FAILPOINT = re.compile(r"^failpoint (\S+): (\S+) at ([\d.]+)", re.MULTILINE)

_FATES = {signal.SIGKILL: "killed", signal.SIGSTOP: "frozen", signal.SIGTERM: "terminated"}


@dataclass
class Life:
    """One incarnation of a child.

    Attributes:
        name: which child.
        pid: its process.
        started: when, Unix seconds.
        ready: when it was seen to consume, of a worker.
        fates: what was done to it: kind to Unix seconds of the first time.
        ended: when it was seen to have ended.
        status: its exit status.
        reached: failpoints that it reached, with their actions.
        last_words: the end of its log, where nothing explains its end.
    """

    name: str
    pid: int
    started: float
    ready: float | None = None
    fates: dict[str, float] = field(default_factory=dict)
    ended: float | None = None
    status: int | None = None
    reached: dict[str, str] = field(default_factory=dict)
    last_words: str = ""

    @property
    def lost_since(self) -> float | None:
        """When its jobs were lost with it: it was killed or frozen, or ended by itself. None: they were not."""
        hurt = [at for fate, at in self.fates.items() if fate in {"killed", "frozen", "failpoint"}]
        if hurt:
            return min(hurt)
        return self.ended if self.status else None

    @property
    def explained(self) -> bool:
        """Whether its end follows from what was done to it."""
        if self.status is None:
            return True
        if self.status == -signal.SIGKILL:
            return "killed" in self.fates or "kill" in self.reached.values()
        if self.status == 0:
            return "terminated" in self.fates
        # A worker that lost its lease or its engine, or that found no Redis at its start, ends with 1, for its supervisor.
        own = {"frozen", "frozen_early", "engine", "no_redis"} & set(self.fates) or {
            "stop",
            "sleep",
            "raise",
        } & set(self.reached.values())
        return self.status == 1 and bool(own)


class Child:
    """A process that is started again, and again, under one name.

    Args:
        name: its name, also that of its log.
        argv: its command.
        env: its whole environment.
        folder: where its log goes.
        pass_fds: file descriptors that it inherits.
    """

    def __init__(
        self,
        name: str,
        argv: Callable[[], list[str]],
        env: Mapping[str, str],
        folder: Path,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.lives: list[Life] = []
        self.wanted = False
        self.armed = False
        self.respawn_at = 0.0
        self._argv = argv
        self._env = dict(env)
        self._pass_fds = pass_fds
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def life(self) -> Life:
        """The present (or last) incarnation."""
        return self.lives[-1]

    @property
    def alive(self) -> bool:
        """Whether it runs (or is frozen)."""
        return self._process is not None and self._process.poll() is None

    @property
    def frozen(self) -> bool:
        """Whether it stands still by SIGSTOP."""
        if not self.alive:
            return False
        try:
            stat = Path(f"/proc/{self.life.pid}/stat").read_text()
        except FileNotFoundError:
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    def start(self, failpoints: str = "") -> None:
        """Start it, from the main thread: the kernel kills it when that thread goes."""
        assert not self.alive, f"{self.name} runs already"
        env = self._env | ({"PENSTOCK_FAILPOINTS": failpoints} if failpoints else {})
        with self.log.open("ab") as out:
            self._log_start = out.tell()
            self._process = subprocess.Popen(
                self._argv(),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=env,
                pass_fds=self._pass_fds,
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - nothing but a system call happens there
            )
        self.lives.append(Life(self.name, self._process.pid, time.time()))
        self.wanted = True
        self.armed = bool(failpoints)

    def output(self) -> str:
        """What this incarnation has written."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def look(self) -> None:
        """Note whether this incarnation has come to a failpoint."""
        for window, action, at in _FAILPOINT.findall(self.output()):
            self.life.reached[window] = action
            self.life.fates.setdefault("failpoint", float(at))

    def signal(self, signum: signal.Signals, fate: str | None = None) -> None:
        """Send it a signal, and remember that as ``fate``."""
        if not self.alive or self._process is None:
            return
        fate = fate or _FATES.get(signum)
        if fate == "frozen" and self.life.ready is None:
            fate = "frozen_early"  # with no job on it
        if fate:
            self.life.fates.setdefault(fate, time.time())
        self._process.send_signal(signum)

    def poll(self) -> int | None:
        """Return its exit status, None while it runs; notes how it ended."""
        if self._process is None:
            return None
        status = self._process.poll()
        life = self.life
        if status is not None and life.status is None:
            output = self.output()
            life.status, life.ended = status, time.time()
            self.look()
            if life.ready is None and "cannot reach Redis" in output:
                life.fates.setdefault("no_redis", life.ended)
            if not life.explained:
                life.last_words = output[-1500:]
        return status

    def end(self) -> None:
        """End it now, whatever state it is in."""
        self.wanted = False
        if self.alive and self._process is not None:
            self.life.fates.setdefault("killed", time.time())
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(10)
        self.poll()


def clean_env(**settings: object) -> dict[str, str]:
    """This process's environment without settings of Penstock's but these."""
    return clean() | {f"PENSTOCK_{name.upper()}": str(value) for name, value in settings.items()}
