"""Names of end users are replaced, wherever a request has them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.admission.end_users import NOTE, digest_of, hide_end_user, noted
from api.http.errors import ApiError
from jobs.endpoints import CHAT, COUNT_TOKENS, MESSAGES, RERANK

KEY, NAME = b"key", "anna@example.org"


@pytest.mark.parametrize(
    ("endpoint", "request_"),
    [
        (CHAT, {"safety_identifier": NAME}),
        (MESSAGES, {"messages": [], "metadata": {"user_id": NAME, "other": 1}}),
        (COUNT_TOKENS, {"messages": [], "metadata": {"user_id": NAME}}),
    ],
)
def test_a_name_becomes_its_digest(endpoint: str, request_: dict[str, Any]) -> None:
    body = json.dumps(request_).encode()
    hidden, sent = hide_end_user(KEY, "alice", endpoint, request_, body)
    assert json.loads(sent) == hidden
    assert NAME not in sent.decode()
    assert hidden.keys() == request_.keys()
    assert noted(KEY, "alice", {}, endpoint, hidden) == {NOTE: digest_of(KEY, "alice", NAME)}
    other, _ = hide_end_user(KEY, "bob", endpoint, request_, body)
    assert other != hidden


@pytest.mark.parametrize(
    ("endpoint", "request_"),
    [
        (CHAT, {"metadata": {"user_id": NAME}}),  # a client's own note there
        (MESSAGES, {"metadata": {"other": 1}}),
        (MESSAGES, {"metadata": None}),
        (MESSAGES, {"metadata": {"user_id": None}}),
        (CHAT, {"safety_identifier": None}),
        (MESSAGES, {}),
    ],
)
def test_a_request_without_a_name_stays_as_it_is(endpoint: str, request_: dict[str, Any]) -> None:
    body = b"as it came"
    assert hide_end_user(KEY, "alice", endpoint, request_, body) == (request_, body)
    assert noted(KEY, "alice", {"a": "b"}, endpoint, request_) == {"a": "b"}


@pytest.mark.parametrize("name", [5, True, [NAME], {"mail": NAME}])
def test_a_name_that_is_no_string_is_refused(name: object) -> None:
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "safety_identifier": (CHAT, {"safety_identifier": name}),
        "metadata.user_id": (MESSAGES, {"metadata": {"user_id": name}}),
    }
    for field, (endpoint, request_) in cases.items():
        with pytest.raises(ApiError) as caught:
            hide_end_user(KEY, "alice", endpoint, request_, json.dumps(request_).encode())
        assert (caught.value.status, caught.value.param) == (400, field.partition(".")[0])
        assert field in str(caught.value)


@pytest.mark.parametrize("endpoint", [CHAT, RERANK])
def test_a_user_goes_to_the_engine_and_the_job_notes_a_digest(endpoint: str) -> None:
    request_, body = {"user": NAME}, b"as it came"
    assert hide_end_user(KEY, "alice", endpoint, request_, body) == (request_, body)
    assert noted(KEY, "alice", {}, endpoint, request_) == {NOTE: digest_of(KEY, "alice", NAME)}
