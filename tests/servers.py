"""Every version of Redis and Valkey that is supported, for tests that run on each of them.

A module whose tests run on each::

    pytestmark = [pytest.mark.asyncio, every_server]

Each of its tests must use the fixture ``valkey``, if only through ``broker_settings``, ``store``, ``api`` or a worker.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from penstock.server.valkey import EmbeddedServer
from tools.setup_redis_servers import OTHERS


@dataclass(frozen=True)
class ServerVersion:
    """A server to run tests on.

    Attributes:
        name: product and version, as in ``redis-7.0``.
        binary: what starts it; None: the embedded server's own.
    """

    name: str
    binary: Path | None = None

    @property
    def started_by(self) -> Path | None:
        """``binary``, which must be there."""
        assert self.binary is None or self.binary.exists(), (
            f"{self.name} is missing: tools/setup_redis_servers.py"
        )
        return self.binary

    def told_by(self, info: dict[str, Any]) -> bool:
        """Whether ``INFO server`` is of this version."""
        product, _, version = self.name.partition("-")
        return str(info.get(f"{product}_version", "")).startswith(f"{version}.")


EMBEDDED = ServerVersion("valkey-9.1")


class VersionedServer(EmbeddedServer):
    """The embedded server, as a server of this version runs it.

    Args:
        dump: an RDB file that it loads; then it writes nothing to the disk.
    """

    def __init__(
        self, data_dir: Path, version: ServerVersion = EMBEDDED, *, dump: Path | None = None
    ) -> None:
        super().__init__(data_dir)
        self.version = version
        self._dump = dump

    @property
    def argv(self) -> list[str]:
        embedded, *rest = super().argv
        return [str(self.version.started_by or embedded), *rest]

    def prepare(self) -> None:
        binary = self.version.binary
        assert binary is None or binary.exists(), (
            f"{self.version.name} is missing: tools/setup_redis_servers.py"
        )
        super().prepare()
        if self._dump:
            shutil.copy(self._dump, self.dir / "dump.rdb")
            with (self.dir / "valkey.conf").open("a") as conf:  # the last line of a name counts
                conf.write("appendonly no\ndbfilename dump.rdb\n")


def _param(version: ServerVersion, *, here: bool) -> Any:
    marks = [] if here else [pytest.mark.skip(reason=f"no {version.name} for this machine")]
    return pytest.param(version, id=version.name, marks=marks)


REDIS_SERVERS = [
    *(_param(ServerVersion(one.name, one.path), here=one.obtainable or one.path.exists()) for one in OTHERS),
    _param(EMBEDDED, here=True),
]
"""One that cannot be had for this machine is skipped; one that can and is missing fails."""

OLDEST_AND_EMBEDDED = [one for one in REDIS_SERVERS if one.id in {"redis-7.0", EMBEDDED.name}]
"""For tests that are too long to run on each."""

every_server = pytest.mark.parametrize("valkey", REDIS_SERVERS, indirect=True, scope="session")
