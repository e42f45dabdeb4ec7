"""How a run in several processes spreads the tests: the tests of a file stay together, and so do those of a group.

So a fixture of a module is made once, and one of a session is made once if all that use it are in one ``xdist_group``.
"""

from __future__ import annotations

import pytest
from _pytest.nodeid import NodeId
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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Append a test's group to its id, for the scheduler. pytest-xdist 3.8 writes it where pytest 9.2 does not read it."""
    if not getattr(config.option, "loadgroup", False):  # one process only
        return
    for item in items:
        groups = sorted({str(mark.args[0]) for mark in item.iter_markers("xdist_group")})
        if groups:
            name = f"{item.nodeid}@{'_'.join(groups)}"
            item._id = NodeId.parse(name)
            assert item.nodeid == name, "pytest reads ids elsewhere now"
