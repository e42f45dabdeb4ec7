"""Why a job failed: a closed set of codes, and one table with the meaning of each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FailureCode(StrEnum):
    """The code of a failed job, as clients and metrics see it."""

    INVALID_REQUEST = "invalid_request"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    MODEL_NOT_FOUND = "model_not_found"
    UNSUPPORTED = "unsupported"
    TIMEOUT = "timeout"
    WORKER_LOST = "worker_lost"
    ENGINE_ERROR = "engine_error"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    POISONED = "poisoned"
    RESULT_TOO_LARGE = "result_too_large"
    ENCRYPTION_KEY_UNKNOWN = "encryption_key_unknown"
    DECRYPTION_FAILED = "decryption_failed"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    FILE_NOT_FOUND = "file_not_found"
    ADAPTER_BROKEN = "adapter_broken"
    INTERNAL = "internal_error"


@dataclass(frozen=True, slots=True)
class FailureInfo:
    """The meaning of a code.

    Attributes:
        http_status: the status that a synchronous caller gets.
        error_type: the ``type`` of the OpenAI error body.
        sentence: for documentation and logs.
        retryable: another attempt could succeed.
    """

    http_status: int
    error_type: str
    sentence: str
    retryable: bool = False


FAILURES: dict[FailureCode, FailureInfo] = {
    FailureCode.INVALID_REQUEST: FailureInfo(
        400, "invalid_request_error", "The engine refused the request body."
    ),
    FailureCode.CONTEXT_LENGTH_EXCEEDED: FailureInfo(
        400, "invalid_request_error", "Prompt and requested output do not fit into the model's context."
    ),
    FailureCode.MODEL_NOT_FOUND: FailureInfo(
        404, "invalid_request_error", "The worker does not serve this model."
    ),
    FailureCode.UNSUPPORTED: FailureInfo(
        400, "invalid_request_error", "The model cannot do what the endpoint asks for."
    ),
    FailureCode.TIMEOUT: FailureInfo(504, "timeout_error", "The job ran longer than its time limit."),
    FailureCode.WORKER_LOST: FailureInfo(
        503, "server_error", "Every attempt's worker was lost.", retryable=True
    ),
    FailureCode.ENGINE_ERROR: FailureInfo(
        500, "server_error", "The engine failed while it ran the request.", retryable=True
    ),
    FailureCode.ENGINE_UNAVAILABLE: FailureInfo(
        503, "server_error", "The engine died or could not be reached.", retryable=True
    ),
    FailureCode.POISONED: FailureInfo(
        500,
        "server_error",
        "The engine died twice while it ran the request, which therefore counts as the cause.",
    ),
    FailureCode.RESULT_TOO_LARGE: FailureInfo(
        500, "server_error", "The response is larger than the job store keeps."
    ),
    FailureCode.ENCRYPTION_KEY_UNKNOWN: FailureInfo(
        503,
        "server_error",
        "The data is encrypted with a key that is not in `encryption_keys` of the process that reads it.",
        retryable=True,
    ),
    FailureCode.DECRYPTION_FAILED: FailureInfo(
        500, "server_error", "Encrypted data was changed since it was written, or belongs elsewhere."
    ),
    FailureCode.STORAGE_UNAVAILABLE: FailureInfo(
        503,
        "server_error",
        "The worker could not read the request, or a file of it, from the storage of files.",
        retryable=True,
    ),
    FailureCode.FILE_NOT_FOUND: FailureInfo(
        404,
        "invalid_request_error",
        "A file that the request names does not exist: it was deleted, has expired, or is another tenant's; or it is no "
        "image, or it or all images together are too large.",
    ),
    FailureCode.ADAPTER_BROKEN: FailureInfo(
        400,
        "invalid_request_error",
        "The engine cannot load the LoRA adapter that the request names; the message says why.",
    ),
    FailureCode.INTERNAL: FailureInfo(
        500, "server_error", "Penstock itself failed; the worker's log has the traceback."
    ),
}


def code_for_status(status: int, message: str = "", code: object = None) -> FailureCode:
    """Map an engine's HTTP status (and, below 500, its code and message) to a failure code.

    Args:
        status: an HTTP status of 400 or more.
        message: the engine's error message; only its words tell that a prompt is too long for vLLM.
        code: of the engine's error; OpenAI's own codes are among ours.
    """
    if status < 500 and isinstance(code, str) and code in _OF_REQUEST:
        return FailureCode(code)
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return FailureCode.ENGINE_ERROR
    low = message.lower()
    too_long = "maximum context length" in low or "maximum model length" in low or "max_model_len" in low
    return FailureCode.CONTEXT_LENGTH_EXCEEDED if too_long else FailureCode.INVALID_REQUEST


_OF_REQUEST = {
    FailureCode.CONTEXT_LENGTH_EXCEEDED.value,
    FailureCode.MODEL_NOT_FOUND.value,
    FailureCode.UNSUPPORTED.value,
}

_BY_STATUS = {
    404: FailureCode.MODEL_NOT_FOUND,
    405: FailureCode.UNSUPPORTED,
    501: FailureCode.UNSUPPORTED,
    408: FailureCode.TIMEOUT,
    504: FailureCode.TIMEOUT,
    409: FailureCode.ENGINE_UNAVAILABLE,
    425: FailureCode.ENGINE_UNAVAILABLE,
    429: FailureCode.ENGINE_UNAVAILABLE,
    502: FailureCode.ENGINE_UNAVAILABLE,
    503: FailureCode.ENGINE_UNAVAILABLE,
}
