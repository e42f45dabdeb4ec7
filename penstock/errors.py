"""Everything the client raises, on one page.

    PenstockError
    ├── ArgumentError             an argument that cannot be sent; also a ValueError
    ├── APIConnectionError        no answer: refused, reset, cut
    │   └── APITimeoutError       no answer in time
    ├── APIResponseError          an answer that is not what the contract says
    ├── APIStatusError            an answer with an error status
    │   ├── BadRequestError       400, 405, 413, 422
    │   ├── AuthenticationError   401
    │   ├── PermissionDeniedError 403
    │   ├── NotFoundError         404
    │   ├── ConflictError         409
    │   ├── RateLimitedError      429
    │   └── ServerError           500 and above
    │       └── UnavailableError  503
    ├── JobEndedError             the job ended without a result
    │   ├── JobFailedError
    │   ├── JobCancelledError
    │   └── JobExpiredError
    ├── JobNotFinishedError       the result was asked for too early
    ├── WaitTimeoutError          not ended after ``timeout_s``; also a TimeoutError
    ├── BatchEndedError           the batch ended, but not as ``completed``
    ├── BatchWaitTimeoutError     as WaitTimeoutError, of a batch
    ├── StreamRestartedError      text that was already delivered is void
    └── WebhookSignatureError     a request that no Penstock server signed just now

The table ``_BY_STATUS`` maps statuses to classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.batch_models import Batch
    from penstock.models import Job


class PenstockError(Exception):
    """The root of all errors of this package."""


class ArgumentError(PenstockError, ValueError):
    """An argument that cannot be sent, such as an empty id. Nothing was sent."""


class APIConnectionError(PenstockError):
    """The server could not be reached, or went away before it had answered.

    Attributes:
        sent: whether the request may have reached the server. False if no connection was made.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class APITimeoutError(APIConnectionError):
    """The server did not answer within the client's timeout."""


class _OfReply(Exception):  # noqa: N818 - a mixin of errors, never raised by itself
    headers: Mapping[str, str]
    body: Any

    @property
    def request_id(self) -> str | None:
        """The id to look for in the server's logs and traces; None if the answer named none."""
        if given := self.headers.get("x-request-id"):
            return given
        parts = self.headers.get("traceresponse", "").split("-")  # version, trace id, span id, flags
        return parts[1] if len(parts) == 4 else None


class APIResponseError(_OfReply, PenstockError):
    """The server's answer breaks the contract; for example, it is a page of a proxy.

    Attributes:
        status: the HTTP status; None if it is not known, as in the middle of a stream.
        headers: the answer's headers, names in lower case.
        body: the answer's body, JSON or text; None if it was not read.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.body = body


class APIStatusError(_OfReply, PenstockError):
    """The server answered with an error status.

    Attributes:
        status: the HTTP status, 400 or more.
        code: the machine-readable code, such as ``queue_full``; None if the body had none.
        type: the OpenAI error type, such as ``invalid_request_error``; None if the body had none.
        param: the request field at fault; None if it is no particular one.
        message: the server's sentence.
        retry_after: seconds that the server asks to wait; None if it did not say.
        headers: the answer's headers, names in lower case.
        body: the whole body: parsed if it is JSON, otherwise its text; None if it is empty.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        type: str | None = None,  # noqa: A002  # the field's name on the wire
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}" if code else f"{status}: {message}")
        self.message = message
        self.status = status
        self.code = code
        self.type = type
        self.param = param
        self.retry_after = retry_after
        self.headers = headers or {}
        self.body = body


class BadRequestError(APIStatusError):
    """The request is wrong and will stay wrong."""


class AuthenticationError(APIStatusError):
    """No API key, or one that the server does not know."""


class PermissionDeniedError(APIStatusError):
    """The API key may not do this."""


class NotFoundError(APIStatusError):
    """No such job, model or path."""


class ConflictError(APIStatusError):
    """The request does not fit the present state, for example an idempotency key used with another body."""


class RateLimitedError(APIStatusError):
    """Too many requests or jobs at once; ``retry_after`` says when to try again."""


class ServerError(APIStatusError):
    """The server failed, or cannot serve just now."""


class UnavailableError(ServerError):
    """The server cannot serve just now: it has no worker, the job waited too long, or Redis is unreachable."""


@dataclass(frozen=True, slots=True)
class Retry:
    """A try that failed and is repeated after a pause: the argument of ``on_retry``.

    Attributes:
        what: the request, such as ``GET /v1/models``, or the stream.
        error: why the try failed.
        number: of the coming retry, from 1.
        max_retries: the most retries.
        delay_s: seconds until then.
    """

    what: str
    error: PenstockError
    number: int
    max_retries: int
    delay_s: float


_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    405: BadRequestError,
    409: ConflictError,
    413: BadRequestError,
    422: BadRequestError,
    429: RateLimitedError,
    503: UnavailableError,
}


def status_error_class(status: int) -> type[APIStatusError]:
    """Return the class for an HTTP status of 400 or more; unlisted 4xx are plain :class:`APIStatusError`."""
    return _BY_STATUS.get(status, ServerError if status >= 500 else APIStatusError)


class _OfJob(Exception):  # noqa: N818 - as above
    def __init__(self, message: str, *, job: Job) -> None:
        super().__init__(message)
        self.job = job


class _OfBatch(Exception):  # noqa: N818 - as above
    def __init__(self, message: str, *, batch: Batch) -> None:
        super().__init__(message)
        self.batch = batch


class JobEndedError(_OfJob, PenstockError):
    """The job ended without a result. ``job`` is the job as it ended."""


class JobFailedError(JobEndedError):
    """The job failed; ``job.error`` has the code and the message."""


class JobCancelledError(JobEndedError):
    """The job was cancelled."""


class JobExpiredError(JobEndedError):
    """The job's deadline passed before its end."""


class JobNotFinishedError(_OfJob, PenstockError):
    """The result was asked for while the job is queued or running. ``job`` is the job as it was then."""


class WaitTimeoutError(_OfJob, PenstockError, TimeoutError):
    """The job did not end in the time given to ``wait``; it continues. ``job`` is the job as last seen."""


class BatchEndedError(_OfBatch, PenstockError):
    """A batch failed (its input is wrong), expired or was cancelled. ``batch`` is the batch as it ended."""


class BatchWaitTimeoutError(_OfBatch, PenstockError, TimeoutError):
    """The batch did not end in the time given to ``wait``; it continues. ``batch`` is the batch as last seen."""


class StreamRestartedError(PenstockError):
    """A worker was lost after text had been delivered. That text is void, and the next attempt starts over.

    Attributes:
        job_id: the job.
        attempt: the number of the new attempt.
        event_id: the restart's cursor: ``stream(job_id, after=event_id)`` gives the new attempt.
    """

    def __init__(self, *, job_id: str, attempt: int, event_id: str) -> None:
        super().__init__(f"{job_id} was restarted (attempt {attempt}); the text so far is void")
        self.job_id = job_id
        self.attempt = attempt
        self.event_id = event_id


class WebhookSignatureError(PenstockError):
    """A receiver got a request whose signature is wrong, or that is older than five minutes."""
