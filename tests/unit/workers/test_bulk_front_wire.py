"""What a worker and its bulk front say to each other arrives as it was said."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from jobs.model import Usage
from workers.engines.vllm import bulk_front_wire as wire

Ends = tuple[wire.Wire[wire.ToFront], wire.Wire[wire.ToWorker]]

TO_FRONT = (
    wire.Run(
        0,
        "job_0",
        "/v1/chat/completions",
        b'{"a": "\xc3\xbc"}',
        True,
        40,
        2,
        {"traceparent": "00"},
        "t",
        None,
    ),
    wire.Run(1, "job_1", "/v1/audio/transcriptions", b"{}", False, 40, 1, {}, None, ("a.wav", b"\x00\xff")),
    wire.Abort(0),
    wire.Cancel(1),
)
TO_WORKER = (
    wire.Ready(),
    wire.Failed("no room"),
    wire.HandedOver(0),
    wire.Streamed(0, "tWörter"),
    wire.Ended(0, 200, b"{}", Usage(1, 2, 3, 1)),
    wire.Ended(1, 400, b"{}", None),
    wire.Died(2, "gone", reached=False),
    wire.Crashed(3, "ValueError: x"),
    wire.Crashed(4, None),
    wire.Counts(1, 2, 3),
)


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[Ends]:
    """The front's end and the worker's."""
    front, worker = [await asyncio.open_unix_connection(sock=one) for one in socket.socketpair()]
    made = wire.Wire[wire.ToFront](*front, wire.ToFront), wire.Wire[wire.ToWorker](*worker, wire.ToWorker)
    yield made
    for one in made:
        one.close()


@pytest.mark.asyncio
async def test_messages_of_one_turn_are_one_frame_in_their_order(ends: Ends) -> None:
    front, worker = ends
    for message in TO_FRONT:
        worker.send(message)
    for answer in TO_WORKER:
        front.send(answer)
    assert await front.receive() == list(TO_FRONT)
    assert await worker.receive() == list(TO_WORKER)


@pytest.mark.asyncio
async def test_frames_of_bytes_come_before_messages(ends: Ends) -> None:
    front, worker = ends
    worker.send_bytes(b"")
    worker.send_bytes(bytes(1 << 20))
    worker.send(wire.Abort(7))
    assert await front.receive_bytes() == b""
    assert len(await front.receive_bytes()) == 1 << 20
    assert await front.receive() == [wire.Abort(7)]


@pytest.mark.asyncio
@pytest.mark.parametrize("sent", [b"", b"\x05\x00", wire.framed(b"whole")[:-1]])
async def test_an_end_that_is_gone_is_told_apart_from_silence(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(sent)
    theirs.close()
    worker = wire.Wire[wire.ToWorker](*await asyncio.open_unix_connection(sock=ours), wire.ToWorker)
    with pytest.raises(EOFError):
        await worker.receive()
    worker.send(wire.Cancel(1))  # to nobody
    await asyncio.sleep(0)
    worker.close()
    worker.close()
