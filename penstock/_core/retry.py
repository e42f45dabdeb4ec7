"""When to try again and after how long, without I/O; randomness and clock are arguments."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from penstock.errors import APIConnectionError, APIStatusError, PenstockError, Retry

RETRY_STATUSES = frozenset({408, 429, 502, 503, 504})
"""Statuses that say "not now". A 500 is a fault that the same request would meet again."""

MAX_RETRY_S = 120.0
"""The default of :attr:`RetryPolicy.max_retry_s`."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounded exponential backoff with jitter.

    Attributes:
        max_retries: further tries after the first.
        base_s: the first pause; it doubles each time.
        cap_s: the longest pause of our own making; a server's Retry-After may ask for more.
        max_retry_s: no further try begins later than this after the first failure. A server that asks for a longer
            pause gets no retry: the caller should know at once.
        on_retry: is called before each pause.
        rand: random numbers in [0, 1), so that many clients do not come back at the same moment.
        clock: monotonic seconds.
    """

    max_retries: int = 4
    base_s: float = 0.5
    cap_s: float = 8.0
    max_retry_s: float = MAX_RETRY_S
    on_retry: Callable[[Retry], object] | None = None
    rand: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic

    def backoff_s(self, tried: int) -> float:
        """Return the pause after ``tried`` earlier ones: between half of and the whole exponential step."""
        step = min(self.cap_s, self.base_s * 2.0 ** min(tried, 32))
        return step * (0.5 + 0.5 * self.rand())


class Retries:
    """The retries of one call, or of one stream since it last brought something.

    Args:
        policy: their bounds.
        what: what is tried, for the report.
        deadline: on the policy's clock; the last try begins then at the latest. None is no deadline.
    """

    def __init__(self, policy: RetryPolicy, what: str, deadline: float | None = None) -> None:
        self._policy = policy
        self._what = what
        self._deadline = deadline
        self.reset()

    def reset(self) -> None:
        """Forget the failures so far."""
        self._made = 0
        self._until: float | None = None

    def pause_s(self, error: PenstockError, *, report: bool = True) -> float:
        """Count a failed try, report it, and return the pause before the next one.

        Args:
            error: why the try failed.
            report: call ``on_retry``.

        Raises:
            PenstockError: ``error``, if there is no next try.
        """
        policy = self._policy
        now = policy.clock()
        if self._until is None:
            self._until = now + policy.max_retry_s
            if self._deadline is not None:
                self._until = min(self._until, self._deadline)
        if self._made >= policy.max_retries or not is_transient(error) or now >= self._until:
            raise error
        asked = error.retry_after if isinstance(error, APIStatusError) else None
        if asked is None:
            delay_s = policy.backoff_s(self._made)
        elif now + asked > self._until:
            raise error
        else:  # never before the time asked for; the jitter comes on top
            delay_s = asked + 0.1 * max(asked, policy.base_s) * policy.rand()
        delay_s = min(delay_s, self._until - now)
        self._made += 1
        if report and policy.on_retry is not None:
            policy.on_retry(Retry(self._what, error, self._made, policy.max_retries, delay_s))
        return delay_s


def is_transient(error: PenstockError) -> bool:
    """Whether the same request may succeed later. A server that knows better says so in ``x-should-retry``."""
    if isinstance(error, APIStatusError):
        return error.status in RETRY_STATUSES and error.headers.get("x-should-retry") != "false"
    return isinstance(error, APIConnectionError)


def is_refusal(error: PenstockError) -> bool:
    """Whether the server has said that it did not carry out the request, and would not next time."""
    return isinstance(error, APIStatusError) and error.status < 500 and error.status not in RETRY_STATUSES


def may_have_arrived(error: PenstockError) -> bool:
    """Whether the server may have carried out the request that failed so. False only if it certainly did not."""
    if isinstance(error, APIConnectionError):
        return error.sent
    return not (isinstance(error, APIStatusError) and error.status == 429)
