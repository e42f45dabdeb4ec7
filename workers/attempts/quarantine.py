"""Jobs under which an engine died once, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from broker.claims import Claim


class Quarantine:
    """Keeps suspects apart, so that the engine's next death tells the cause from the jobs beside it.

    An engine that dies takes its whole batch with it, and any job of the batch may have been the cause. Each of them runs as
    the only suspect: until it ends, or for ``window_s`` seconds, since a request that kills an engine does so early. The
    others wait in Redis meanwhile: while :attr:`room` is 0, this worker claims none.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._here: set[tuple[str, int]] = set()

    @property
    def room(self) -> int:
        """How many suspects may be claimed now. From any thread."""
        return 0 if self._here else 1

    def enter(self, claim: Claim) -> None:
        """Note a claim, if it is a suspect's. On the thread that claims."""
        if claim.kills:
            self._here.add((claim.id, claim.attempt))

    def leave(self, claim: Claim) -> None:
        """Note that an attempt has ended."""
        self._here.discard((claim.id, claim.attempt))

    @contextmanager
    def window(self, claim: Claim) -> Iterator[None]:
        """Let the next suspect in after ``window_s`` seconds of a suspect's run. On the engine's loop."""
        timer = asyncio.get_running_loop().call_later(self._window_s, self.leave, claim)
        try:
            yield
        finally:
            timer.cancel()
