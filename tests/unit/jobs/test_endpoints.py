"""The table of endpoints is whole."""

from __future__ import annotations

import pytest

from jobs.endpoints import (
    BATCH_ENDPOINTS,
    CHAT,
    CHUNK_ENDPOINT,
    COMPLETIONS,
    ENDPOINTS,
    JOB_ENDPOINTS,
    MESSAGES,
    RESPONSES,
    STREAMING,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    Endpoint,
    task_of,
)


def test_every_path_has_a_row() -> None:
    assert tuple(ENDPOINTS) == JOB_ENDPOINTS
    assert set(BATCH_ENDPOINTS) < set(JOB_ENDPOINTS)
    assert STREAMING == (CHAT, COMPLETIONS, RESPONSES, MESSAGES, TRANSCRIPTIONS, TRANSLATIONS)
    assert CHUNK_ENDPOINT not in ENDPOINTS


@pytest.mark.parametrize("one", ENDPOINTS.values(), ids=lambda one: one.path)
def test_a_row_is_whole(one: Endpoint) -> None:
    assert one.path.startswith("/")
    assert one.served_at.startswith("/")
    assert one.prompt_fields
    assert task_of(one.path) == one.task
    assert not one.response_id or "{}" in one.response_id
    assert not one.streams or one.limit_fields


def test_an_endpoint_outside_the_table_is_its_own_task() -> None:
    assert task_of(CHUNK_ENDPOINT) == CHUNK_ENDPOINT
