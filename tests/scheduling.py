"""How a run in several processes spreads the tests: the tests of a file stay together, and so do those of a group.

So a fixture of a module is made once, and one of a session is made once if all that use it are in one ``xdist_group``.
"""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadGroupScheduling


class FileScheduling(LoadGroupScheduling):  # type: ignore[misc]  # it has no types
    """Hands out whole files and groups."""

    def _split_scope(self, nodeid: str) -> str:
        return str(super()._split_scope(nodeid)).partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    """Answer the hook of pytest-xdist."""
    return FileScheduling(config, log)
