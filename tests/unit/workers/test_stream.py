from __future__ import annotations

from jobs.stream_chunks import Text
from workers.attempts.stream import StreamBuffer


def test_chunks_are_numbered_and_texts_merged() -> None:
    buffer = StreamBuffer("job", 1)
    buffer.append(Text("a"))
    buffer.append(Text("b"))
    assert buffer.send() == [(1, "tab")]
    buffer.sent()
    buffer.append(Text("c"))
    assert buffer.take() == [(2, "tc")]
    assert buffer.take() == []


def test_what_is_not_known_to_be_written_goes_with_the_end() -> None:
    buffer = StreamBuffer("job", 1)
    buffer.append(Text("a"))
    buffer.send()
    buffer.append(Text("b"))
    assert buffer.take() == [(1, "ta"), (2, "tb")]
    assert buffer.take() == []


def test_reasoning_and_answer_are_merged_apart() -> None:
    buffer = StreamBuffer("job", 1)
    for said, reasoning in (("a", True), ("b", True), ("c", False), ("d", False), ("e", True)):
        buffer.append(Text(said, reasoning))
    assert buffer.take() == [(1, "rab"), (2, "tcd"), (3, "re")]
