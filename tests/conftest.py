"""Fixtures for every room: one real Valkey for the session, one namespace and one database check per test."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from penstock.server.valkey import EmbeddedServer
from tests.environment import make_clean
from tests.heap import pytest_collection
from tests.namespaces import check_and_empty, new_namespace
from tests.scheduling import pytest_collection_modifyitems, pytest_xdist_make_scheduler
from tests.servers import EMBEDDED, VersionedServer
from tests.timing import pytest_terminal_summary
from tests.trust import share_contexts

__all__ = [
    "pytest_collection",
    "pytest_collection_modifyitems",
    "pytest_terminal_summary",
    "pytest_xdist_make_scheduler",
]  # hooks

make_clean()  # no test depends on the settings of whoever runs it, nor on the penstock.toml of the checkout

share_contexts()

# A shell that starts the tests in the background lets them, and whatever they start, ignore Ctrl-C; nohup, SIGHUP.
for _signum, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, _default)

# No test fails for being slow: the machine may be busy.
settings.register_profile("penstock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("penstock")


@pytest.fixture(scope="session")
def valkey(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServer]:
    """A real server, as `penstock up` starts it; or, under ``every_server``, of each supported version."""
    version = getattr(request, "param", EMBEDDED)
    with VersionedServer(tmp_path_factory.mktemp("valkey"), version) as server:
        yield server


@pytest.fixture
def broker_settings(valkey: EmbeddedServer) -> Iterator[BrokerSettings]:
    """Settings in a namespace of the test's own; afterwards no key may lack a lifetime that its schema demands."""
    settings = new_namespace(valkey)
    yield settings
    check_and_empty(settings)


@pytest_asyncio.fixture
async def store(broker_settings: BrokerSettings) -> AsyncIterator[JobStore]:
    """A job store."""
    store = JobStore(connect(broker_settings.redis_url), broker_settings)
    yield store
    await store.aclose()
