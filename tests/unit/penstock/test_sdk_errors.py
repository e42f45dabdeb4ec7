"""The error tree: every status, every one of httpx's errors, every end of a job has its class."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

import penstock
from penstock import Job, Penstock, errors
from penstock._core.http import translate
from penstock._core.replies import Reply, ended_error, status_error
from tests.unit.penstock.double import ID, error, job, pool

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


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://x", "http://", "http://x\r\nX-Other: y", "http://x/\n/y"]
)
def test_an_address_that_is_none_is_refused_at_once(url):
    with pytest.raises(ValueError, match="base_url"):
        Penstock(url)


TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("headers", "request_id"),
    [
        ({}, None),
        ({"x-request-id": "r-1", "traceresponse": f"00-{TRACE}-00f067aa0ba902b7-01"}, "r-1"),
        ({"traceresponse": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        ({"traceresponse": "nonsense"}, None),
    ],
)
def test_an_error_carries_the_answer_it_was_made_of(server, headers, request_id):
    whole = error("a_code", "a message", more=[1])
    server.faults.extend([(500, headers, whole), (502, headers, "<html>"), (200, headers, "<html>")])
    with Penstock(server.url, max_retries=0) as client:
        for kind, status, body in (
            (errors.ServerError, 500, whole),
            (errors.ServerError, 502, "<html>"),
            (errors.APIResponseError, 200, "<html>"),
        ):
            with pytest.raises(kind) as caught:
                client.jobs.get(ID)
            got: Any = caught.value
            assert (got.status, got.body, got.request_id) == (status, body, request_id)
            assert headers.items() <= dict(got.headers).items()


def test_a_purge_is_not_repeated_after_an_answer_that_may_hide_its_success(server):
    server.pools = [pool()]
    with Penstock(server.url) as client:
        server.faults.append((502, {}, "bad gateway"))
        with pytest.raises(errors.ServerError) as caught:
            client.pools.purge("default", "low")
        assert len(server.seen) == 1
        assert "may have been carried out" in caught.value.__notes__[0]
        server.faults.append((429, {"retry-after": "0"}, error("rate_limited")))
        assert client.pools.purge("default", "low") == 1234


@pytest.mark.parametrize(
    ("call", "repeated"),
    [
        (lambda client: client.workers.drain("w"), False),
        (lambda client: client.dead.retry(code="timeout"), False),
        (lambda client: client.dead.retry([ID]), True),
        (lambda client: client.pools.pause("default"), True),
        (lambda client: client.jobs.cancel(ID), True),
        (lambda client: client.jobs.retry(ID), True),
        (lambda client: client.jobs.change(ID, top=True), True),
        (lambda client: client.submit({}), True),
        (lambda client: client.batches.create("file-1"), True),
        (lambda client: client.batches.retry("batch_1"), True),
        (lambda client: client.files.delete("file-1"), True),
    ],
)
def test_which_calls_are_repeated_after_a_502(server, call, repeated):
    server.faults.extend([(502, {}, ""), (400, {}, error("no"))])
    with Penstock(server.url) as client, pytest.raises(errors.APIStatusError):
        call(client)
    assert len(server.seen) == 1 + repeated


def test_a_retry_is_reported(server):
    told: list[penstock.Retry] = []
    server.faults.append((503, {}, error("no_worker")))
    with Penstock(server.url, on_retry=told.append) as client:
        client.models()
    assert [(one.what, one.number, type(one.error)) for one in told] == [
        ("GET /v1/models", 1, errors.UnavailableError)
    ]


@pytest.mark.parametrize("key", ["gehe\u0131m", "a\nb", "a\x00b"])
def test_a_key_that_no_header_can_carry_is_refused_at_once(key):
    with pytest.raises(ValueError, match="API key") as caught:
        Penstock("http://127.0.0.1:9", api_key=key)
    assert key not in str(caught.value)


def test_the_newline_of_a_key_file_is_no_part_of_the_key(server):
    with Penstock(server.url, api_key="secret\n") as client:
        client.models()
    assert server.seen[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize("name", [".", "..", ""])
def test_an_id_that_would_lead_to_another_path_is_refused(name):
    with Penstock("http://127.0.0.1:9") as client:
        for call in (client.jobs.cancel, client.files.delete, client.pools.pause, client.batches.get):
            with pytest.raises(ValueError, match=r"is empty|cannot be"):
                call(name)
