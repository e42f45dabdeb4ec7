"""Every error is OpenAI's body, and every foreign error has its row."""

from __future__ import annotations

import inspect
import json

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from api.http import job_end
from api.http.errors import ApiError, validation_error
from api.http.handlers import foreign_errors
from broker.db import errors as broker_errors
from broker.db.errors import (
    BatchUnfinishedError,
    BodyGoneError,
    BrokerError,
    BusyError,
    ConversationBusyError,
    ConversationFullError,
    FileGoneError,
    FileInUseError,
    IdempotencyConflictError,
    InfeasibleError,
    KeyInactiveError,
    MixedFleetStartError,
    NewerRecordError,
    NoConversationError,
    NoCoordinatorError,
    NoInputFileError,
    OverQuotaError,
    QueueFullError,
    StoreError,
    StoreFaultError,
    StoreUnavailableError,
    TooManyWebhooksError,
    UnfinishedError,
)
from broker.endings import Ending
from jobs.failures import FAILURES, FailureCode
from jobs.model import JobError, Timings
from jobs.sealing import DamagedError, SealingError, UnknownKeyError
from jobs.states import TERMINAL, JobState
from storage import MissingObjectError, StorageError, StorageFullError, StorageUnavailableError

TABLE = foreign_errors()

EXPECTED = [
    (StoreUnavailableError("x"), 503, "redis_unavailable", "server_error"),
    (StoreFaultError("job/claim", "x"), 500, "internal_error", "server_error"),
    (NewerRecordError("x"), 500, "internal_error", "server_error"),
    (OverQuotaError("requests", 60, 1, 1000), 429, "rate_limit_exceeded", "requests"),
    (OverQuotaError("tokens", 60, 61), 429, "rate_limit_exceeded", "tokens"),
    (OverQuotaError("day", 60, 61), 429, "insufficient_quota", "insufficient_quota"),
    (OverQuotaError("storage", 60, 61), 429, "insufficient_quota", "insufficient_quota"),
    (OverQuotaError("batches", 1, 1), 429, "insufficient_quota", "insufficient_quota"),
    (NoConversationError("conv_x"), 404, "conversation_not_found", "invalid_request_error"),
    (ConversationBusyError("resp_x"), 400, "conversation_locked", "invalid_request_error"),
    (ConversationFullError("x"), 400, "conversation_full", "invalid_request_error"),
    (SealingError("x"), 500, "decryption_failed", "server_error"),
    (QueueFullError(5), 429, "queue_full", "rate_limit_error"),
    (QueueFullError(5, 10**9, "a tenant"), 429, "queue_full", "rate_limit_error"),
    (BusyError(5, 2500), 429, "gpu_busy", "rate_limit_error"),
    (InfeasibleError(5000), 400, "infeasible_deadline", "invalid_request_error"),
    (IdempotencyConflictError("job_1"), 409, "idempotency_conflict", "invalid_request_error"),
    (BodyGoneError("job_1"), 410, "result_gone", "invalid_request_error"),
    (UnfinishedError("job_1"), 409, "job_not_finished", "invalid_request_error"),
    (BatchUnfinishedError("batch_1"), 409, "batch_not_finished", "invalid_request_error"),
    (KeyInactiveError("abc"), 409, "key_inactive", "invalid_request_error"),
    (FileGoneError("the input file is gone"), 410, "file_gone", "invalid_request_error"),
    (NoCoordinatorError("none is running"), 503, "no_coordinator", "server_error"),
    (FileInUseError("file-1"), 409, "file_in_use", "invalid_request_error"),
    (NoInputFileError("file-1", None), 400, "invalid_value", "invalid_request_error"),
    (NoInputFileError("file-1", "vision"), 400, "invalid_value", "invalid_request_error"),
    (StorageError("x"), 503, "storage_error", "server_error"),
    (HTTPException(404), 404, "not_found", "invalid_request_error"),
    (HTTPException(405), 405, "method_not_allowed", "invalid_request_error"),
    (HTTPException(418), 418, "invalid_request", "invalid_request_error"),
    (HTTPException(502), 502, "internal_error", "server_error"),
    (
        RequestValidationError([{"loc": ("query", "limit"), "msg": "bad", "type": "x"}]),
        400,
        "invalid_request",
        "invalid_request_error",
    ),
    (ApiError(400, "m", "c", param="p"), 400, "c", "invalid_request_error"),
]


@pytest.mark.parametrize(("error", "status", "code", "type_"), EXPECTED)
def test_the_table(error: Exception, status: int, code: str, type_: str) -> None:
    ours = TABLE[type(error)](error)
    assert (ours.status, ours.code, ours.type) == (status, code, type_)
    body = json.loads(ours.body())["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["message"]
    if ours.headers.get("x-should-retry") == "false":
        assert "retry-after" not in ours.headers
    elif status in {429, 503}:
        assert 1 <= int(ours.headers["retry-after"]) <= 120


def test_storage() -> None:
    gone = TABLE[StorageError](MissingObjectError("x"))
    assert (gone.status, gone.code, gone.headers) == (410, "storage_object_missing", {})
    full, away = TABLE[StorageError](StorageFullError("x")), TABLE[StorageError](StorageUnavailableError("x"))
    assert (full.status, full.code) == (507, "storage_full")
    assert (away.status, away.code) == (503, "storage_unavailable")


def test_encrypted_data_that_cannot_be_read() -> None:
    missing = TABLE[SealingError](UnknownKeyError("k1"))
    assert (missing.status, missing.code, missing.type) == (503, "encryption_key_unknown", "server_error")
    assert "'k1'" in missing.message
    damaged = TABLE[SealingError](DamagedError("the result of job_1"))
    assert (damaged.status, damaged.code) == (500, "decryption_failed")
    assert damaged.headers == {"x-should-retry": "false"}


def test_no_error_lacks_a_row() -> None:
    ours = {kind for _, kind in inspect.getmembers(broker_errors, inspect.isclass)}
    ours = {kind for kind in ours if issubclass(kind, BrokerError)}
    # The third stops a start, and meets no request; the last is answered by the only route that meets it.
    unseen = {BrokerError, StoreError, MixedFleetStartError, TooManyWebhooksError}
    assert ours - unseen | {
        ApiError,
        HTTPException,
        RequestValidationError,
        SealingError,
        StorageError,
    } == set(TABLE)
    assert {type(row[0]) for row in EXPECTED} == set(TABLE)


def test_a_validation_error_names_the_field() -> None:
    role = {"type": "missing", "loc": ("body", "messages", 0, "role"), "msg": "Field required"}
    error = validation_error([role], skip=1)
    assert (error.param, error.message) == ("messages", "messages.0.role: Field required")
    assert validation_error([{"type": "value_error", "loc": (), "msg": "wrong"}]).param is None


def _ending(state: JobState, error: JobError | None = None, result: bytes = b"") -> Ending:
    return Ending(state, None, 1, Timings(1000, 1010, None, 1100), None, error, result=result)


@pytest.mark.parametrize("code", FailureCode)
def test_every_failure_code_has_an_answer(code: FailureCode) -> None:
    status, body, headers = job_end.answer("job_1", _ending(JobState.FAILED, JobError(code, "m", "p")))
    info = FAILURES[code]
    assert status == info.http_status
    assert json.loads(body) == {
        "error": {"message": "m", "type": info.error_type, "param": "p", "code": code.value}
    }
    assert (b"retry-after" in dict(headers)) == (status == 503)
    assert dict(headers)[b"x-penstock-total-ms"] == b"100"


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_every_end_without_a_result_has_an_answer(state: JobState) -> None:
    status, body, _ = job_end.answer("job_1", _ending(state))
    assert status >= 400
    assert json.loads(body)["error"]["code"]


def test_a_cancelled_jobs_partial_result_is_not_a_success() -> None:
    status, _, _ = job_end.answer("job_1", _ending(JobState.CANCELLED, result=b"{}"))
    assert status == 409
