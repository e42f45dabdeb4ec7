"""For engines over an OpenAI or Anthropic server: streaming by the server's own events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from jobs.stream_chunks import Frames
from workers.engines.assemble import BadChunkError, SseReader, StreamError
from workers.engines.base import Emit, EngineDeadError, Final
from workers.engines.events_assemble import assembler_for
from workers.engines.full_stream import whole


async def relay_events(
    parts: AsyncIterator[bytes],
    emit: Emit,
    path: str,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> Final:
    """Pass a server's events on, each as its JSON and verbatim, and put the complete answer together.

    Args:
        parts: the bytes of the answer, cut anywhere.
        path: the endpoint.
        stopped: whether the stream was ended on purpose. From then on nothing is emitted, and the answer so far is the end.

    Returns:
        The end. An error inside the stream is the end with the error's status; it is not emitted.

    Raises:
        EngineDeadError: the stream broke off, or has an event that is none of its kind.
    """
    reader, assembler = SseReader(), assembler_for(path)
    try:
        async for part in parts:
            frames = tuple(reader.feed(part))
            for frame in frames:
                assembler.add(frame)
            if frames and not stopped():
                emit(Frames(frames))
    except StreamError as error:
        return Final(error.status, error.body, None)
    except BadChunkError as error:
        raise EngineDeadError(f"the server sent a bad event: {error}") from error
    if not assembler.finished and not stopped():
        raise EngineDeadError("the server's stream broke off")
    return whole(200, assembler.result())
