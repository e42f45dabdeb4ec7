"""Everything of ``penstock up``, for the time of one command: a queue, the api and a worker on a private port.

It is ``penstock up`` itself, as a child. Should this process be killed, the kernel (Linux) and a guardian end that
child, and its own guardian ends the rest (ADR 0014).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

import penstock
from broker.secret_files import CREDENTIALS_VARIABLE, DIR_VARIABLE
from broker.sources import FILE_VARIABLE, PREFIX, aliases
from penstock.server.errors import UpStartError
from penstock.server.guardian import Guardian, die_with_parent
from penstock.server.settings import fields

_READY = "penstock is ready on "
_LOOK_S = 0.2
_OF_THE_ENGINE = tuple(PREFIX + name for name in ("OPENAI_API_KEY", "OPENAI_ENDPOINTS", "SIMULATED_"))
"""Settings that an embedded stack takes from the environment, by how they begin: its engine's, which have no option."""


class EmbeddedStack:
    """The processes, alone: their queue, files and port are their own, and they read no setting of another server.

    ``with EmbeddedStack(...) as stack``: within it ``stack.url`` serves; behind it none is left.

    Args:
        data_dir: where they keep what they need; a later stack on the same folder goes on with it.
        options: further options of ``penstock up``.
        tell: takes a line of what it says while it starts, and whenever a process of it dies.

    Raises:
        UpStartError: it did not come up. Nothing is left running.
    """

    def __init__(self, data_dir: Path, options: Iterable[str], tell: Callable[[str], None]) -> None:
        flags = ("--host", "127.0.0.1", "--port", "0", "--no-flower", "--data-dir", str(data_dir))
        self._argv = [sys.executable, "-P", "-m", "penstock", "up", *flags, *options]
        self._tell = tell
        self._url = ""
        self._ready = threading.Event()
        self._errors: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where the api serves."""
        return self._url

    def __enter__(self) -> Self:
        """Start everything and wait until it serves."""
        self._guardian = Guardian()
        self._process = process = subprocess.Popen(
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=_environment(),
            process_group=0,  # the terminal's Ctrl-C is for us: we stop it when what we do allows it
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - nothing but a system call happens there
        )
        self._guardian.add(process.pid)
        self._readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        try:
            for reader in self._readers:
                reader.start()
            while not self._ready.wait(_LOOK_S):
                if process.poll() is not None:
                    break
            if not self._ready.is_set():
                self._readers[1].join()
                said = "\n".join(self._errors).removeprefix("penstock up: ")
                raise UpStartError(said or f"it ended with status {process.returncode} before it was ready")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything in order: running requests get the drain timeout. Ctrl-C hurries it."""
        self._end()

    def _end(self) -> None:
        process = self._process
        assert process is not None  # noqa: S101 - set by __enter__
        _signal(process)
        while process.poll() is None:
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_S)
            except KeyboardInterrupt:
                _signal(process)
        self._guardian.remove(process.pid)
        self._guardian.close()
        for reader in self._readers:
            reader.join()

    def _read_output(self) -> None:
        assert self._process is not None  # noqa: S101 - set by __enter__
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        with self._process.stdout as lines:
            for line in lines:
                if line.startswith(_READY):
                    self._url = line.removeprefix(_READY).strip()
                    self._ready.set()
                elif "engine loading" in line or "starting it again" in line or "waiting for" in line:
                    self._tell(line.rstrip())

    def _read_errors(self) -> None:
        assert self._process is not None  # noqa: S101 - set by __enter__
        assert self._process.stderr is not None  # noqa: S101 - a pipe was asked for
        with self._process.stderr as lines:
            self._errors.extend(line.rstrip() for line in lines)


def _signal(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):  # it ended just now
        process.send_signal(signal.SIGINT)


def _environment() -> dict[str, str]:
    settings = {alias.upper() for name, field in fields().items() for alias in aliases(name, field)}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper().startswith(_OF_THE_ENGINE)
        or not (name.upper().startswith(PREFIX) or name.upper() in settings)
    }
    kept.pop(CREDENTIALS_VARIABLE, None)
    kept[FILE_VARIABLE] = kept[DIR_VARIABLE] = os.devnull
    root = Path(penstock.__file__).resolve().parent.parent
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
