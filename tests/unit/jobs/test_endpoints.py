"""The table of endpoints is whole."""

from __future__ import annotations

import pytest

from jobs.endpoints import (
    BATCH_ENDPOINTS,
    CHAT,
    CHUNK_ENDPOINT,
    COMPLETIONS,
    EMBEDDINGS,
    ENDPOINTS,
    JOB_ENDPOINTS,
    RESPONSES,
    STREAMING,
    Endpoint,
    task_of,
)


def test_every_path_has_a_row() -> None:
    assert JOB_ENDPOINTS == (CHAT, COMPLETIONS, EMBEDDINGS)
    assert (*JOB_ENDPOINTS, RESPONSES) == tuple(ENDPOINTS) == BATCH_ENDPOINTS
    assert STREAMING == (CHAT, COMPLETIONS)
    assert CHUNK_ENDPOINT not in ENDPOINTS


@pytest.mark.parametrize("one", ENDPOINTS.values(), ids=lambda one: one.path)
def test_a_row_is_whole(one: Endpoint) -> None:
    assert one.path.startswith("/v1/")
    assert one.prompt_fields
    assert task_of(one.path) == one.task
    assert "{}" in one.response_id
    assert not one.streams or one.limit_fields


def test_an_endpoint_outside_the_table_is_its_own_task() -> None:
    assert task_of(CHUNK_ENDPOINT) == CHUNK_ENDPOINT
