"""Kills the engine's processes when the worker dies, however it dies. Run as a script; standard library only.

vLLM's engine process does not notice that its parent was killed with SIGKILL and would keep the GPU's memory for
ever. The parent-death signal of Linux is tied to a thread, not a process, so a small process watches instead.

The worker writes one process id per line to standard input; ``quit`` ends the watch without killing.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_S = 0.25
"""Seconds between two looks at the parent."""


class Leash:
    """The worker's side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        self._held: set[int] = set()

    @property
    def pid(self) -> int:
        """The watching process."""
        return self._process.pid

    def hold(self, pid: int) -> None:
        """Have ``pid`` killed if this process dies first."""
        if pid in self._held or self._process.stdin is None:
            return
        self._held.add(pid)
        with suppress(
            BrokenPipeError
        ):  # the watcher is gone: there is no protection any more, and no other harm
            self._process.stdin.write(b"%d\n" % pid)
            self._process.stdin.flush()

    def cpu_s(self) -> int:
        """Return the whole seconds of CPU time that the held processes and theirs have used."""
        import psutil  # not in the script: the watcher runs without site-packages

        total = 0.0
        for pid in list(self._held):
            with suppress(psutil.Error):
                held = psutil.Process(pid)
                for process in [held, *held.children(recursive=True)]:
                    times = process.cpu_times()
                    total += times.user + times.system
        return int(total)

    @contextmanager
    def hold_new_children(self) -> Iterator[None]:
        """Hold every child process that is started inside the block, as soon as it exists."""
        import psutil  # not in the script: the watcher runs without site-packages

        me = psutil.Process()
        before = {child.pid for child in me.children()}
        done = threading.Event()

        def watch() -> None:
            last = False
            while not last:
                last = done.wait(POLL_S)
                for child in me.children():
                    if child.pid not in before:
                        self.hold(child.pid)

        watcher = threading.Thread(target=watch, name="leash", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def release(self) -> None:
        """End the watch. Safe to call twice."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.write(b"quit\n")
                self._process.stdin.flush()
            self._process.stdin.close()
        self._process.wait(timeout=10)


def _kill(pids: dict[int, int | None]) -> None:
    for pid, fd in pids.items():
        with suppress(ProcessLookupError):
            if fd is not None:
                signal.pidfd_send_signal(fd, signal.SIGKILL)  # never another process that got the same id
            else:
                os.kill(pid, signal.SIGKILL)


def _open(pid: int) -> int | None:
    with suppress(AttributeError, OSError):
        return os.pidfd_open(pid)
    return None


def main(parent: int) -> None:
    """Watch until told to quit, or until ``parent`` is gone; then kill the held processes."""
    # The terminal's Ctrl-C reaches the whole group; the worker decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    held: dict[int, int | None] = {}
    rest, open_, orphan = b"", True, False
    while not orphan or open_:
        # Checked before reading, so that the last lines of a dying parent are read too.
        orphan = os.getppid() != parent
        ready, _, _ = select.select([0] if open_ else [], [], [], 0 if orphan else POLL_S)
        if not ready:
            if orphan:
                break
            continue
        data = os.read(0, 4096)
        open_ = bool(data)  # closed without "quit": a dying parent, which the next look confirms
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line == b"quit":
                return
            held[int(line)] = _open(int(line))
    _kill(held)


if __name__ == "__main__":
    main(int(sys.argv[1]))
