"""What a worker and its bulk front say to each other: messages in MessagePack, over one socket.

What is said within one turn of the event loop travels as one frame: its length in four bytes, then a list of messages.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from jobs.model import Usage

_LENGTH = struct.Struct("<I")


class Run(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Run a request.

    Attributes:
        number: the worker's own of it, never used twice, in all messages about it. The others are those of
            :class:`workers.engines.base.EngineRequest`.
    """

    number: int
    id: str
    endpoint: str
    body: bytes
    stream: bool
    priority: int
    attempt: int
    trace: Mapping[str, str]
    tenant: str | None
    upload: tuple[str, bytes] | None


class Abort(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """End a request with the output that it has."""

    number: int


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """End a request; nobody waits for its answer."""

    number: int


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Requests may come."""


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The front could not start. ``why``: for the operator."""

    why: str


class HandedOver(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A request is with the engine core."""

    number: int


class Streamed(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The next chunk of a request's stream, as :func:`jobs.stream_chunks.encode` writes it."""

    number: int
    chunk: str


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """How a request ended: the fields of :class:`workers.engines.base.Final`."""

    number: int
    status: int
    body: bytes
    usage: Usage | None


class Died(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """A request ended with the engine. ``reached``: the engine had it."""

    number: int
    why: str
    reached: bool


class Crashed(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """A request ended with an exception; None: because it was cancelled."""

    number: int
    why: str | None


class Counts(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """The front's part of the engine's statistics, since its start: see :class:`jobs.facts.EngineStats`.

    Attributes:
        held: requests that vLLM has from it now.
    """

    held: int = 0
    preemptions: int = 0
    generated: int = 0


ToFront: TypeAlias = Run | Abort | Cancel
ToWorker: TypeAlias = Ready | Failed | HandedOver | Streamed | Ended | Died | Crashed | Counts

M = TypeVar("M")


def framed(data: bytes) -> bytes:
    """Return a frame of these bytes."""
    return _LENGTH.pack(len(data)) + data


class Wire(Generic[M]):
    """One end of the socket. For one event loop.

    Args:
        incoming: the type of the messages that come.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, incoming: Any) -> None:
        self._reader, self._writer = reader, writer
        self._decode = msgspec.msgpack.Decoder(list[incoming]).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._out: list[Any] = []

    def send(self, message: ToFront | ToWorker) -> None:
        """Send a message, after those before it. Nothing happens if nobody is there any more."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(message)

    def _flush(self) -> None:
        out, self._out = self._out, []
        self.send_bytes(self._encode(out))

    def send_bytes(self, data: bytes) -> None:
        """Send a frame of any bytes, for :meth:`receive_bytes`."""
        if not self._writer.is_closing():
            self._writer.writelines((_LENGTH.pack(len(data)), data))

    async def receive(self) -> list[M]:
        """Wait for the next messages, in the order in which they were sent.

        Raises:
            EOFError: the other end is gone.
        """
        messages: list[M] = self._decode(await self.receive_bytes())
        return messages

    async def receive_bytes(self) -> bytes:
        """Wait for the next frame. Raises as :meth:`receive`."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            return await self._reader.readexactly(length)
        except OSError as error:
            raise EOFError from error

    def close(self) -> None:
        """Tell the other end that nothing more comes, also if a forked process holds this socket too."""
        if not self._writer.is_closing():
            if self._writer.can_write_eof():
                self._writer.write_eof()
            self._writer.close()
