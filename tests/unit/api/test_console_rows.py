"""The failed rows that a batch's page shows."""

from __future__ import annotations

import msgspec

from api.console.pages.failed_rows import MOST_ROWS, FailedRow, failed_rows
from jobs.batch_lines import NeverRan, Response, never_ran_line


def answered(status: int, body: bytes, custom_id: str = "row-1") -> bytes:
    return b"".join(Response(status, body, "engine-1").line("batch_req_1", custom_id, "engine-1"))


def test_a_row_shows_the_message_of_its_answer_or_why_it_never_ran() -> None:
    refused = answered(400, b'{"error":{"message":"too long","code":"context_length_exceeded"}}')
    assert failed_rows(refused + never_ran_line("batch_req_2", "row-2", NeverRan.EXPIRED)) == [
        FailedRow("row-1", 400, "context_length_exceeded", "too long"),
        FailedRow(
            "row-2",
            None,
            "batch_expired",
            "This request could not be executed before the completion window expired.",
        ),
    ]


def test_a_body_of_another_shape_is_no_error() -> None:
    (flat,) = failed_rows(answered(422, b'{"message":"no","code":7}'))
    assert flat == FailedRow("row-1", 422, "7", "no")
    (bare,) = failed_rows(answered(500, b"{}"))
    assert bare.message == "its answer has no message"
    assert failed_rows(answered(500, b"[1]")) == []


def test_the_cut_last_line_and_lines_of_no_object_are_left_out() -> None:
    line = never_ran_line("batch_req_1", "row-1", NeverRan.CANCELLED)
    assert len(failed_rows(line + b"7\n" + line + line[:30])) == 2


def test_few_rows_and_short_messages_are_shown() -> None:
    body = msgspec.json.encode({"error": {"message": "x" * 5000}})
    rows = failed_rows(answered(500, body) * 50)
    assert len(rows) == MOST_ROWS
    assert {len(row.message) for row in rows} == {400}
