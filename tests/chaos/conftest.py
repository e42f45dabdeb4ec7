"""One stack for all scenarios of a session: each heals it, and looks at its own jobs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.chaos.checker import quiet
from tests.chaos.round import Round
from tests.chaos.stack import Stack


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chaos_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Two apis, two workers with the simulated engine, one Valkey: real processes."""
    async with Stack(tmp_path_factory.mktemp("chaos")) as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def stack(chaos_stack: Stack) -> Stack:
    """The stack, whole and quiet, whatever the scenario before it did."""
    await chaos_stack.heal()
    await chaos_stack.rearm({child: "" for child in chaos_stack.children if child.armed})
    assert await quiet(chaos_stack)
    return chaos_stack


@pytest.fixture
def a_round(stack: Stack, request: pytest.FixtureRequest) -> Callable[..., Round]:
    """Make this scenario's round; ``CHAOS_SEED`` gives another seed than 1."""
    seed = os.environ.get("CHAOS_SEED", "1")

    def make(**options) -> Round:
        return Round(stack, f"{seed}/{request.node.name}", **{"patience_s": 30.0, **options})

    return make
