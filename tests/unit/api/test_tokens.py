"""What a request says of the tokens that it needs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.admission.tokens import answers_of, given_tokens, most_tokens
from jobs.endpoints import (
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    DETOKENIZE,
    EMBEDDINGS,
    RERANK,
    SCORE,
    TOKENIZE,
)


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
    endpoint = EMBEDDINGS if "input" in request_ else CHAT if "messages" in request_ else COMPLETIONS
    assert given_tokens(endpoint, request_, 1000) == tokens


def size_of(request_: dict[str, Any]) -> int:
    return len(json.dumps(request_, separators=(",", ":")))


@pytest.mark.parametrize("fields", [("query", "documents"), ("text_1", "text_2"), ("queries", "documents")])
@pytest.mark.parametrize("listed", [False, True])
def test_a_query_costs_as_often_as_there_are_documents(fields: tuple[str, str], listed: bool) -> None:
    one, many = fields
    query: Any = ["q" * 398] if listed and one != "query" else "q" * 398
    request_ = {one: query, many: ["d" * 40] * 1000}
    found = given_tokens(RERANK if one == "query" else SCORE, request_, size_of(request_))
    assert found == (size_of(request_) + 999 * 400) // 4


def test_texts_that_meet_one_another_cost_once() -> None:
    request_ = {"text_1": ["a" * 40] * 9, "text_2": ["b" * 40] * 9}
    assert given_tokens(SCORE, request_, size_of(request_)) == size_of(request_) // 4
    assert given_tokens(RERANK, {"query": "q", "documents": "d"}, 400) == 100
    assert given_tokens(RERANK, {"query": "q", "documents": []}, 400) == 100


@pytest.mark.parametrize("endpoint", [TOKENIZE, DETOKENIZE, COUNT_TOKENS])
def test_the_tokenizer_alone_costs_little(endpoint: str) -> None:
    assert given_tokens(endpoint, {"prompt": "x", "tokens": [1, 2]}, 40_000) == 101
    assert given_tokens(endpoint, {"prompt": ""}, 10) == 1
    assert most_tokens(endpoint, {"max_tokens": 5}) == 0
