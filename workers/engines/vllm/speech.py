"""Audio requests through vLLM's own endpoint functions, which take a form."""

from __future__ import annotations

from typing import Any

from workers.engines.base import Emit, EngineRequest, Upload
from workers.engines.base import Final as End
from workers.engines.full_stream import relay, whole
from workers.engines.speech import SUBTITLES, form_of, spoken, streamed_answer, text_answer
from workers.engines.vllm import wire
from workers.engines.vllm.inner_app import Endpoint, Headers, InvalidBodyError, call_app, upload_of

_USAGE = "stream_include_usage"


async def run_form(
    app: Any, endpoint: Endpoint | None, request: EngineRequest, headers: Headers, emit: Emit
) -> End:
    """Run a request that has a file. vLLM has no subtitles: they are made of its segments.

    Args:
        endpoint: None: the app has no such endpoint, and says so.
    """
    upload = request.upload or Upload("", b"")
    fields = {name: value for name, value in (wire.parse_body(request.body) or {}).items() if name != "file"}
    asked, stream = fields.get("response_format"), request.stream
    if asked in SUBTITLES:
        fields["response_format"] = "verbose_json"
    hide_usage = fields.pop(_USAGE, None) not in {True, "true", "True", "1"}
    fields |= {"stream": stream} | ({_USAGE: True} if stream else {})
    file = upload_of(upload.filename, upload.data)
    try:
        if endpoint is None:
            raise InvalidBodyError
        response, raw_request = await endpoint.call(fields | {"file": file}, headers)
    except InvalidBodyError:
        form = form_of(fields, upload)
        answer = await call_app(
            app, "POST", request.endpoint, form.body, headers, content_type=form.content_type
        )
        return whole(*answer)
    parts = getattr(response, "body_iterator", None)
    if parts is None:
        return spoken(int(response.status_code), bytes(response.body), asked)
    end = await relay(
        wire.closing(parts),
        emit,
        chat=True,
        hide_usage=hide_usage,
        ask_usage=lambda: wire.usage_beside(raw_request),
    )
    return text_answer(streamed_answer(end), asked)
