"""What an answer shows in place of the engine's own members."""

import json

from api.http.job_end import answer
from api.http.shown import event_with_shown, with_shown
from api.jobs.view import job_view
from api.openai.frames import OpenAIStream
from broker.endings import Ending
from jobs.lanes import Lane
from jobs.model import Job, Succeeded, Timings
from jobs.states import JobState

BODY = b'{"id": "resp_1", "store": true,  "n": 1.10}'
SHOWN = {"store": False, "background": True, "metadata": {"a": "b"}}
ENDING = Ending(JobState.SUCCEEDED, 200, 1, Timings(0, 1, 2, 3), None, None, result=BODY)


def test_members_are_replaced_in_their_place_or_added() -> None:
    body = with_shown(BODY, SHOWN)
    assert json.loads(body) == {"id": "resp_1", "n": 1.1, **SHOWN}
    assert list(json.loads(body)) == ["id", "store", "n", "background", "metadata"]
    assert b"1.10" in body, "other members keep their bytes"


def test_a_body_without_shown_keeps_its_bytes() -> None:
    assert with_shown(BODY, {}) is BODY
    assert answer("job_1", ENDING)[1] is BODY


def test_an_answer_and_a_job_show_the_members() -> None:
    assert json.loads(answer("job_1", ENDING, SHOWN)[1])["background"] is True
    job = Job(
        "job_1", JobState.SUCCEEDED, Succeeded(None, "w"), "/v1/responses", "m", "p", Lane.NORMAL, False,
        "default", {}, Timings(0, 1, 2, 3), 1, 3, shown=SHOWN,
    )  # fmt: skip
    view = job_view(job, BODY, b'{"store": true}')
    assert json.loads(bytes(view["result"])) == json.loads(with_shown(BODY, SHOWN))
    assert json.loads(bytes(view["partial"])) == SHOWN


def test_an_event_shows_them_in_its_response_only() -> None:
    event = '{"type":"response.created","response":{"id":"resp_1","store":true},"sequence_number":0}'
    assert json.loads(event_with_shown(event, SHOWN)) == {
        "type": "response.created",
        "response": {"id": "resp_1", **SHOWN},
        "sequence_number": 0,
    }
    for other in (
        '{"type":"response.output_text.delta","delta":"\\"response\\""}',
        '{"response":null}',
        event,
    ):
        assert event_with_shown(other, SHOWN if other is not event else {}) is other


def test_a_streams_closing_chunk_shows_them() -> None:
    stream = OpenAIStream("job_1", {"service_tier": "default"})
    end = (
        "e" + json.dumps({"state": "succeeded", "attempt": 1, "created": 0, "finished": 3}),
        'j{"id":"c","service_tier":null,"choices":[{"finish_reason":"stop"}]}',
    )
    out = stream.feed([("1-1", end[1]), ("1-4294967295", end[0])])
    chunk = json.loads(out.split(b"\n\n")[0].removeprefix(b"data: "))
    assert chunk["service_tier"] == "default"
    assert chunk["penstock"]["job_id"] == "job_1"
