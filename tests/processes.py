"""Real worker processes for tests: started, watched and stopped by pid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from broker.settings import BrokerSettings
from monitoring.failpoints import VARIABLE

ROOT = Path(__file__).parents[1]
_RUN = "import sys, json; from workers.main import run_worker; run_worker(json.loads(sys.argv[1]))"


class WorkerProcess:
    """One worker with the simulated engine.

    Args:
        settings: whose Redis and namespace it uses.
        log: where its output goes.
        name: before ``@host``.
        failpoints: see :mod:`monitoring.failpoints`.
        overrides: further worker settings, JSON-able.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        log: Path,
        name: str = "w1",
        *,
        failpoints: str = "",
        **overrides: object,
    ) -> None:
        self.log = log
        given = {
            "redis_url": settings.redis_url,
            "namespace": settings.namespace,
            "engine": "simulated",
            "name": name,
            **overrides,
        }
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _RUN, json.dumps(given)],
                cwd=ROOT,
                stdout=out,
                stderr=out,
                env={k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
                | {VARIABLE: failpoints},
                start_new_session=True,
            )

    def signal(self, signum: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(signum)

    def wait(self, timeout_s: float = 20.0) -> int:
        """Return its exit status."""
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)
