"""A streamed chat completion, without I/O: the request, and its answer chunk by chunk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from penstock._core import flows, replies, requests
from penstock._core.flows import Deliver, Items, Open, Read
from penstock._core.replies import Reply
from penstock._core.retry import Retries, RetryPolicy
from penstock._core.sse import ServerSentEvent, SSEParser
from penstock.errors import APIConnectionError, APIResponseError, APIStatusError, PenstockError

PATH = "/v1/chat/completions"
_DONE = "[DONE]"
_EARLY_HEAD = {"x-penstock-early-head": "1"}


def stream(
    body: Mapping[str, Any], policy: RetryPolicy, on_accepted: Callable[[str], object] | None
) -> Items[dict[str, Any]]:
    """Deliver the chunks of an answer. It is asked for once more only if no chunk of it came.

    Args:
        body: of a chat completion; that it streams and says its usage is added.
        policy: for the tries until the server answers.
        on_accepted: see :meth:`penstock.resources.chats.Chats.stream`.

    Raises:
        APIConnectionError: the server cannot be reached, or the stream ended before its end.
        APIStatusError: the server refused, or the answer failed on its way.
        APIResponseError: the answer is no stream of chunks.
    """
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    headers = {"accept": "text/event-stream"} | (_EARLY_HEAD if on_accepted else {})
    request = requests.with_json("POST", PATH, asked, headers)
    # A second try would generate a second answer. One that certainly did not arrive may be sent again.
    request = replace(request, at_most_once=True)
    retries = Retries(policy, str(request))
    while True:
        error: PenstockError
        try:
            head = yield from flows.answer(Open(request))
            if 200 <= head.status < 300:
                break
            error = replies.status_error(replace(head, body=(yield from _rest())))
        except APIConnectionError as exc:
            error = exc
        if not request.repeatable(error):
            raise error
        yield flows.Sleep(retries.pause_s(error))
    if "text/event-stream" not in head.headers.get("content-type", ""):
        raise replies.unexpected(
            head, f"{request} was not answered with a stream: is this the address of a model server?"
        )
    if on_accepted is not None and (job_id := head.headers.get("x-penstock-job-id")):
        on_accepted(job_id)
    parser = SSEParser()
    while piece := (yield from flows.answer(Read())).body:
        for event in parser.feed(piece):
            if event.data == _DONE:
                return
            yield Deliver(_chunk(event, head))
    raise APIConnectionError("the answer was cut off: the server ended the stream before its end")


def _rest() -> flows.Flow[bytes]:
    body = b""
    while piece := (yield from flows.answer(Read())).body:
        body += piece
    return body


def _chunk(event: ServerSentEvent, head: Reply) -> dict[str, Any]:
    try:
        chunk = json.loads(event.data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise APIResponseError(
            f"a chunk of the answer is no JSON object: {event.data[:100]!r}", status=head.status
        )
    if isinstance(found := chunk.get("error"), dict):
        raise _failed(found, head)
    return chunk


def _failed(error: Mapping[str, Any], head: Reply) -> APIStatusError:
    """Return the error that a stream carried: its head said 200 long before."""
    code = error.get("code")
    return APIStatusError(
        str(error.get("message") or "no message"),
        status=code if isinstance(code, int) else 500,
        code=None if code is None or isinstance(code, int) else str(code),
        type=error.get("type"),
        param=error.get("param"),
        headers=head.headers,
        body={"error": dict(error)},
    )
