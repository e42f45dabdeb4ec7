"""A coordinator in the api's process."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

import pytest
from redis import Redis

from broker.db.errors import MixedFleetStartError
from broker.settings import BrokerSettings
from coordinator.settings import CoordinatorSettings
from jobs.model import SCHEMA_VERSION
from penstock.server.together import Beside
from tests.support import wait_until


def test_one_that_fails_ends_the_process_and_says_why(
    broker_settings: BrokerSettings, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The api takes the signal for an ordinary stop, so whoever runs the two must learn of the failure."""
    told: list[int] = []

    def tell(number: int, _: FrameType | None) -> None:
        told.append(number)

    usual = signal.signal(signal.SIGTERM, tell)
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, usual))
    with Redis.from_url(broker_settings.redis_url) as client:
        client.set(f"{broker_settings.namespace}:schema", SCHEMA_VERSION + 1)
    beside = Beside(
        CoordinatorSettings(
            redis_url=broker_settings.redis_url, namespace=broker_settings.namespace, data_dir=tmp_path
        )
    )
    beside.start()
    wait_until(lambda: told == [signal.SIGTERM])
    beside.end()
    assert isinstance(beside.failure, MixedFleetStartError)
