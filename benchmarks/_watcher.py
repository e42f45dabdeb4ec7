"""A process of its own that asks an api for its health again and again, and reads its memory."""

from __future__ import annotations

import http.client
import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

EVERY_S = 0.01


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen since the last look. Attributes: milliseconds of each answer, largest memory in bytes, CPU seconds."""

    ms: list[float]
    rss: int
    cpu_s: float


class Watcher:
    """Watches until it is stopped. ``pid``: the api's process."""

    def __init__(self, host: str, port: int, pid: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_watch, args=(theirs, host, port, pid), daemon=True)
        self._process.start()
        self.look()

    def look(self) -> Seen:
        """Return the samples taken since the last call."""
        self._pipe.send(True)
        seen: Seen = self._pipe.recv()
        return seen

    def stop(self) -> None:
        """End the process."""
        self._pipe.send(False)
        self._process.join()


def _watch(pipe: Connection, host: str, port: int, pid: int) -> None:
    link = http.client.HTTPConnection(host, port, timeout=120)
    ms: list[float] = []
    rss, cpu_s = 0, _cpu_s(pid)
    while True:
        began = time.perf_counter()
        try:
            link.request("GET", "/health/live")
            link.getresponse().read()
        except (OSError, http.client.HTTPException):
            link.close()
            time.sleep(EVERY_S)
        ms.append((time.perf_counter() - began) * 1000)
        rss = max(rss, _rss(pid))
        if pipe.poll(EVERY_S):
            if not pipe.recv():
                return
            now = _cpu_s(pid)
            pipe.send(Seen(ms, rss, now - cpu_s))
            ms, rss, cpu_s = [], 0, now


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
