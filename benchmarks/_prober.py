"""How fast an api answers meanwhile."""

from __future__ import annotations

import http.client
import threading
import time


class Prober:
    """Asks the api for its health again and again, and notes how long each answer took."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=30)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seen: list[tuple[float, float]] = []
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(0.01):
            began = time.perf_counter()
            self._connection.request("GET", "/health/live")
            self._connection.getresponse().read()
            self.seen.append((time.time(), (time.perf_counter() - began) * 1000))

    def stop(self) -> None:
        """End."""
        self._stopped.set()
        self._thread.join()
        self._connection.close()

    def between(self, first: float, last: float) -> dict[str, float | None]:
        """Return percentiles in milliseconds."""
        took = sorted(ms for at, ms in self.seen if first <= at <= last)
        if not took:
            return {"p50": None, "p99": None}
        return {"p50": round(took[len(took) // 2], 2), "p99": round(took[int(len(took) * 0.99)], 2)}
