"""What the simulated engine says, and the time that it takes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time

from jobs.model import Usage
from workers.engines.base import Emit
from workers.engines.settings import SimulatedSettings
from workers.engines.simulated.shapes import Shape

_TEXT = """
water falls through the gate and turns a wheel that lights every window in town while rain fills lakes
above valley walls so nobody waits long for power or bread at night when rivers run low engines hum
"""

_WORDS = tuple(f" {word}" for word in _TEXT.split())


class Voice:
    """Says words: the same prompt, count and seed give the same.

    Args:
        settings: the engine's.

    Attributes:
        seed: other weights have another one.
        generated: tokens since the start.
    """

    def __init__(self, settings: SimulatedSettings) -> None:
        self._ttft_s, self._inter_token_s = settings.ttft_s, settings.inter_token_s
        self.seed = settings.seed
        self.generated = 0

    async def generate(self, count: int, stop: asyncio.Event) -> int:
        """Take the time that ``count`` tokens need; return how many there are, fewer if stopped."""
        first_s, next_s = self._ttft_s, self._inter_token_s
        began = time.monotonic()
        if await _pause(first_s + next_s * (count - 1), stop):
            elapsed_s = time.monotonic() - began
            count = (
                min(count, 1 + int((elapsed_s - first_s) / next_s)) if elapsed_s >= first_s and next_s else 0
            )
        self.generated += count
        return count

    def words(self, prompt: bytes, count: int) -> list[str]:
        """Return what it says to a prompt."""
        digest = hashlib.blake2b(prompt + b"%d" % self.seed, digest_size=4).digest()
        start = int.from_bytes(digest, "little")
        step, size = 1 + start % 7, len(_WORDS)
        return [_WORDS[(start + step * place) % size] for place in range(count)]

    async def stream(
        self,
        emit: Emit,
        words: list[str],
        shape: Shape,
        stop: asyncio.Event,
        prompt_tokens: int,
    ) -> int:
        """Emit the words; return how many."""
        if await _pause(self._ttft_s, stop):
            return 0
        emit(shape.head())
        for place, word in enumerate(words[:-1]):
            if place and await _pause(self._inter_token_s, stop):
                return place
            emit(shape.text(word))
            self.generated += 1
        if len(words) > 1 and await _pause(self._inter_token_s, stop):
            return len(words) - 1
        usage = Usage(prompt_tokens, len(words), prompt_tokens + len(words))
        emit(shape.tail(words, usage))
        self.generated += 1
        return len(words)


async def _pause(seconds: float, stop: asyncio.Event) -> bool:
    """Sleep, unless stopped; return whether it was."""
    if seconds:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()
    return stop.is_set()
