"""Requests without the names of end users."""

from __future__ import annotations

import pytest

from jobs.end_users import without_end_users
from jobs.endpoints import CHAT, MESSAGES, RESPONSES


@pytest.mark.parametrize(
    ("endpoint", "before", "after"),
    [
        (
            CHAT,
            '{"a":1.50,"safety_identifier":"ann@example.org","b":["\\u00e9"]}',
            '{"a":1.50,"b":["\\u00e9"]}',
        ),
        (RESPONSES, '{"safety_identifier": {"mail": "ann@example.org"}}', "{}"),
        (MESSAGES, '{"metadata":{"user_id":"ann","b":1},"c":2}', '{"metadata":{"b":1},"c":2}'),
        (MESSAGES, '{"safety_identifier":"a","metadata":{"user_id":5}}', '{"metadata":{}}'),
    ],
)
def test_names_leave_and_the_rest_stays(endpoint: str, before: str, after: str) -> None:
    assert without_end_users(endpoint, before.encode()).decode() == after


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (CHAT, b'{ "user": "ann" }'),
        (CHAT, b'{ "metadata": {"user_id": "a client\'s own note"} }'),
        (CHAT, b'{ "messages": [{"content": "what is a safety_identifier?"}] }'),
        (MESSAGES, b'{ "metadata": "user_id" }'),
        (MESSAGES, b'{ "metadata": null, "system": "user_id" }'),
        (CHAT, b'["safety_identifier"]'),
        (CHAT, b'{"safety_identifier"'),
    ],
)
def test_a_request_without_names_stays_as_it_is(endpoint: str, body: bytes) -> None:
    assert without_end_users(endpoint, body) is body
