"""Answers of deterministic rows that run or have run here, for identical rows of the same batch read later."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, TypeAlias

from jobs.batch_lines import Response
from jobs.batch_model import Counts
from workers.batches.plan import repeats_itself

MOST_BYTES: Final = 64 * 1024 * 1024
"""The most bytes of answers that are kept. Beyond them, the answer that was used least recently is dropped."""

MOST_ANSWER_BYTES: Final = 1024 * 1024
"""A longer answer is not kept."""

MOST_WAITING_BYTES: Final = 16 * 1024 * 1024
"""The most bytes of rows that wait for the answer of a row that still runs."""

_OVERHEAD_BYTES: Final = 500
_WAITING_BYTES: Final = 2000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a row's line is made of.

    Attributes:
        kind: ``ok`` or ``err``.
        usage: the tokens that the response states.
        size: bytes of the response.
    """

    response: Response
    kind: str
    usage: Counts
    size: int


Waiter: TypeAlias = asyncio.Future[Answer | None]
"""A row's wait for the answer of one that runs; None: there is none, so the row runs itself."""


class Answers:
    """The answers of one worker. Each belongs to a batch: no other batch, and so no other tenant, gets it.

    Args:
        most_bytes: see :data:`MOST_BYTES`.
        most_waiting_bytes: see :data:`MOST_WAITING_BYTES`.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, most_waiting_bytes: int = MOST_WAITING_BYTES) -> None:
        self._most, self._most_waiting = most_bytes, most_waiting_bytes
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._running: dict[bytes, list[Waiter]] = {}
        self._bytes = self._waiting_bytes = 0

    def get(self, key: bytes) -> Answer | None:
        """Return the answer of an earlier row with this key."""
        if key not in self._answers:
            return None
        self._answers.move_to_end(key)
        return self._answers[key]

    def put(self, key: bytes, answer: Answer) -> None:
        """Keep the answer of a row."""
        if answer.size > MOST_ANSWER_BYTES or key in self._answers:
            return
        self._answers[key] = answer
        self._bytes += answer.size + _OVERHEAD_BYTES
        while self._bytes > self._most:
            _, oldest = self._answers.popitem(last=False)
            self._bytes -= oldest.size + _OVERHEAD_BYTES

    def begin(self, key: bytes) -> bool:
        """Note that a row with this key runs, until :meth:`end`. False: another one does already."""
        if key in self._running:
            return False
        self._running[key] = []
        return True

    def end(self, key: bytes, answer: Answer | None) -> None:
        """Give the answer to the rows that wait for it. None: there is none that others may have."""
        for waiter in self._running.pop(key):
            if not waiter.done():
                waiter.set_result(answer)

    def wait(self, key: bytes, size: int) -> Waiter | None:
        """Have a row of so many bytes wait for the end of a row with this key.

        Returns:
            What it waits for, which may be cancelled; None: no such row runs, or too many wait.
        """
        size += _WAITING_BYTES
        if key not in self._running or self._waiting_bytes + size > self._most_waiting:
            return None
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._running[key].append(waiter)
        self._waiting_bytes += size
        waiter.add_done_callback(lambda _: self._waits_no_more(size))
        return waiter

    def _waits_no_more(self, size: int) -> None:
        self._waiting_bytes -= size

    def clear(self) -> None:
        """Forget all. No row runs or waits."""
        self._answers.clear()
        self._bytes = 0


def key_of(batch: str, endpoint: str, body: bytes) -> bytes | None:
    """Return the key that a row has in common with those of its batch whose bodies are the same to the byte.

    Returns:
        None: its answer is not deterministic, so that each such row runs.
    """
    if not repeats_itself(endpoint, body):
        return None
    return hashlib.blake2b(body, digest_size=16, key=batch.encode()).digest()
