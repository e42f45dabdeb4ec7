"""The world that the tests of a module share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from penstock.server.valkey import EmbeddedServer
from tests.namespaces import check_and_empty, new_namespace
from tests.security.issuing import issue
from tests.security.world import World, build


@pytest.fixture(scope="module")
def world(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An api that requires keys, with the objects of two tenants."""
    base = new_namespace(valkey)
    with build(base, tmp_path_factory.mktemp("world"), asyncio.run(issue(base))) as world:
        yield world
    check_and_empty(base)
