"""The failure table and the map from an engine's HTTP status."""

from __future__ import annotations

import pytest

from jobs.failures import FAILURES, FailureCode, code_for_status


def test_no_code_lacks_a_row() -> None:
    assert set(FAILURES) == set(FailureCode)


@pytest.mark.parametrize("code", list(FailureCode))
def test_rows_make_sense(code: FailureCode) -> None:
    info = FAILURES[code]
    assert 400 <= info.http_status < 600
    assert info.error_type
    assert info.sentence.endswith(".")
    assert not (info.retryable and info.http_status < 500)


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "temperature must be non-negative", FailureCode.INVALID_REQUEST),
        (400, "This model's maximum context length is 4096 tokens", FailureCode.CONTEXT_LENGTH_EXCEEDED),
        (422, "", FailureCode.INVALID_REQUEST),
        (404, "The model `x` does not exist.", FailureCode.MODEL_NOT_FOUND),
        (405, "", FailureCode.UNSUPPORTED),
        (501, "", FailureCode.UNSUPPORTED),
        (408, "", FailureCode.TIMEOUT),
        (504, "", FailureCode.TIMEOUT),
        (429, "", FailureCode.ENGINE_UNAVAILABLE),
        (503, "", FailureCode.ENGINE_UNAVAILABLE),
        (500, "", FailureCode.ENGINE_ERROR),
    ],
)
def test_code_for_status(status: int, message: str, code: FailureCode) -> None:
    assert code_for_status(status, message) is code


@pytest.mark.parametrize(
    ("status", "code", "found"),
    [
        (400, "context_length_exceeded", FailureCode.CONTEXT_LENGTH_EXCEEDED),
        (400, "unsupported", FailureCode.UNSUPPORTED),
        (404, "model_not_found", FailureCode.MODEL_NOT_FOUND),
        (400, "internal_error", FailureCode.INVALID_REQUEST),
        (400, 400, FailureCode.INVALID_REQUEST),
        (500, "unsupported", FailureCode.ENGINE_ERROR),
    ],
)
def test_an_engines_own_code_counts_where_it_is_one_of_openais(
    status: int, code: object, found: FailureCode
) -> None:
    assert code_for_status(status, "", code) is found
