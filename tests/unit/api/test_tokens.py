"""What a request says of the tokens that it needs."""

from __future__ import annotations

from typing import Any

import pytest

from api.admission.tokens import answers_of, given_tokens, most_tokens
from jobs.endpoints import CHAT, COMPLETIONS, EMBEDDINGS


@pytest.mark.parametrize(
    ("endpoint", "request_", "most"),
    [
        (CHAT, {"max_completion_tokens": 7, "max_tokens": 9}, 7),
        (CHAT, {"max_tokens": 9}, 9),
        (CHAT, {"max_completion_tokens": None, "max_tokens": 9}, 9),
        (CHAT, {}, None),
        (CHAT, {"max_tokens": "9"}, None),
        (CHAT, {"max_tokens": -1}, None),
        (CHAT, {"max_tokens": 10**30}, 2**31),
        (CHAT, {"max_tokens": True}, 1),
        (COMPLETIONS, {"max_tokens": 0}, 0),
        (COMPLETIONS, {"max_completion_tokens": 3}, None),
        (EMBEDDINGS, {"max_tokens": 9}, 0),
    ],
)
def test_the_most_tokens_of_an_answer(endpoint: str, request_: dict[str, Any], most: int | None) -> None:
    found = most_tokens(endpoint, request_)
    assert (found, type(found)) == (most, type(most))


@pytest.mark.parametrize(
    ("request_", "answers"),
    [
        ({}, 1),
        ({"n": None}, 1),
        ({"n": 3}, 3),
        ({"n": 3, "best_of": 5}, 5),
        ({"n": 0}, 1),
        ({"n": True}, 1),
        ({"n": 10**30}, 1024),
        ({"best_of": 10**30, "prompt": ["one", "two"]}, 2048),
        ({"prompt": "one", "n": 2}, 2),
        ({"prompt": ["one", "two"], "n": 2}, 4),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": []}, 1),
    ],
)
def test_the_answers_that_are_generated(request_: dict[str, Any], answers: int) -> None:
    found = answers_of(request_)
    assert (found, type(found)) == (answers, int)


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, None),
        ({"prompt": "text"}, None),
        ({"prompt": ["a", "b"]}, None),
        ({"prompt": [1, 2, 3]}, 3),
        ({"prompt": [[1, 2], [3]]}, 3),
        ({"input": [5, 6]}, 2),
        ({"input": [[5, 6], [7]]}, 3),
        ({"input": ["a"]}, None),
        ({"input": []}, None),
        ({"input": [[]]}, None),
    ],
)
def test_token_ids_are_counted(request_: dict[str, Any], tokens: int | None) -> None:
    assert given_tokens(request_) == tokens
