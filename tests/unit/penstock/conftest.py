"""A server double per test, and clients that do not dawdle between retries."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from penstock import Penstock
from penstock._core import http
from penstock._core.retry import RetryPolicy
from tests.unit.penstock.double import Double, DoubleServer


@pytest.fixture(scope="session")
def double_server() -> Iterator[DoubleServer]:
    with DoubleServer() as server:
        yield server


@pytest.fixture
def server(double_server: DoubleServer) -> Iterator[Double]:
    with double_server.serving() as double:
        yield double


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same policies with pauses of milliseconds; their real lengths are tested without a clock."""
    monkeypatch.setattr(http, "RetryPolicy", partial(RetryPolicy, base_s=0.005, cap_s=0.02))
    for name in ("PENSTOCK_URL", "PENSTOCK_API_KEY", "PENSTOCK_CLIENT_MODEL", "PENSTOCK_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(server: Double) -> Iterator[Penstock]:
    with Penstock(server.url) as made:
        yield made
