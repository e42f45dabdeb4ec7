"""Answers of deterministic rows that have run here, for identical rows of the same batch in later windows and chunks."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from jobs.batch_lines import Response
from jobs.batch_model import Counts
from workers.batches.plan import repeats_itself

MOST_BYTES: Final = 64 * 1024 * 1024
"""The most bytes of answers that are kept. Beyond them, the answer that was used least recently is dropped."""

MOST_ANSWER_BYTES: Final = 1024 * 1024
"""A longer answer is not kept."""

_OVERHEAD_BYTES: Final = 500


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


class Answers:
    """The answers of one worker. Each belongs to a batch: no other batch, and so no other tenant, gets it.

    Args:
        most_bytes: see :data:`MOST_BYTES`.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._bytes = 0

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

    def clear(self) -> None:
        """Forget all."""
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
