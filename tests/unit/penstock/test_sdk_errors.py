"""The error tree: every status, every one of httpx's errors, every end of a job has its class."""

from __future__ import annotations

import httpx
import pytest

import penstock
from penstock import Job, Penstock, errors
from penstock._core.http import translate
from penstock._core.protocol import Reply, ended_error, status_error
from tests.unit.penstock.double import ID, error, job

STATUSES = {
    400: errors.BadRequestError,
    401: errors.AuthenticationError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    405: errors.BadRequestError,
    409: errors.ConflictError,
    413: errors.BadRequestError,
    418: errors.APIStatusError,
    422: errors.BadRequestError,
    429: errors.RateLimitedError,
    500: errors.ServerError,
    502: errors.ServerError,
    503: errors.UnavailableError,
    504: errors.ServerError,
}


@pytest.mark.parametrize(("status", "kind"), STATUSES.items())
def test_each_status_over_the_wire(server, status, kind):
    body = error("a_code", "a message", type="a_type", param="model")
    server.faults.append((status, {"retry-after": "3"}, body))
    with Penstock(server.url, max_retries=0) as client, pytest.raises(kind) as caught:
        client.jobs.get(ID)
    got = caught.value
    assert type(got) is kind
    assert (got.status, got.code, got.type, got.param) == (status, "a_code", "a_type", "model")
    assert (got.message, got.retry_after) == ("a message", 3.0)
    assert str(got) == f"{status} a_code: a message"


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b"[]", b'{"error": "text"}', b"\xff"])
def test_a_body_of_another_shape_still_gives_the_status(body):
    got = status_error(Reply(502, {}, body))
    assert (type(got), got.status, got.code) == (errors.ServerError, 502, None)


def all_of(kind):
    return {kind} | {below for sub in kind.__subclasses__() for below in all_of(sub)}


@pytest.mark.parametrize("kind", sorted(all_of(httpx.RequestError), key=str))
def test_each_of_httpx_errors_has_one_of_ours(kind):
    got = translate(kind("why"), "http://x")
    if issubclass(kind, httpx.TimeoutException):
        assert type(got) is errors.APITimeoutError
    elif kind in {httpx.UnsupportedProtocol, httpx.DecodingError, httpx.TooManyRedirects}:
        assert type(got) is errors.APIResponseError
    else:
        assert type(got) is errors.APIConnectionError
    assert "http://x" in str(got)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("queued", None),
        ("running", None),
        ("succeeded", None),
        ("failed", errors.JobFailedError),
        ("cancelled", errors.JobCancelledError),
        ("expired", errors.JobExpiredError),
    ],
)
def test_each_end_of_a_job(state, kind):
    why = {"code": "worker_lost", "message": "gone"} if state == "failed" else None
    ended = Job.model_validate(job(state=state, error=why))
    got = ended_error(ended)
    assert (None if got is None else type(got)) is kind
    if got is not None:
        assert got.job is ended
    if state == "failed":
        assert "worker_lost: gone" in str(got)


def test_every_error_is_exported_and_below_the_root():
    for kind in all_of(errors.PenstockError):
        assert getattr(penstock, kind.__name__) is kind
    for name in penstock.__all__:
        assert hasattr(penstock, name)


def test_nobody_listens():
    with (
        Penstock("http://127.0.0.1:9", max_retries=1) as client,
        pytest.raises(errors.APIConnectionError) as got,
    ):
        client.models()
    assert "http://127.0.0.1:9" in str(got.value)
    assert isinstance(got.value.__cause__, httpx.ConnectError)


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused_at_once(url):
    with pytest.raises(ValueError, match="base_url"):
        Penstock(url)
