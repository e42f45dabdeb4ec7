"""When a webhook that was not delivered is tried again, and when it is given up. Pure.

The delays are those of Standard Webhooks (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md,
"Deliverability and reliability"), with the last steps closer to each other: about a day in all.
"""

from __future__ import annotations

from email.utils import mktime_tz, parsedate_tz
from typing import Final

_HOUR_S: Final = 3600.0

DELAYS_S: Final = (5.0, 30.0, 120.0, 600.0, 1800.0, _HOUR_S, 2 * _HOUR_S, *(4 * _HOUR_S,) * 5)
"""After the first failed try, the second, and so on; after the last the event is given up."""

JITTER: Final = 0.2
"""A delay is longer or shorter by up to this share, so that receivers that failed together are not tried together."""

MOST_RETRY_AFTER_S: Final = 4 * _HOUR_S
"""Longest time that a receiver can ask for with ``Retry-After``."""


def delay_s(tries: int, chance: float, retry_after_s: float | None = None) -> float | None:
    """Return the seconds before an event is tried again; None: it is given up.

    Args:
        tries: failed tries of this event, from 1.
        chance: uniformly from 0.0 to 1.0.
        retry_after_s: what the receiver asked for: the delay is at least that, up to :data:`MOST_RETRY_AFTER_S`.
    """
    if tries > len(DELAYS_S):
        return None
    own = DELAYS_S[tries - 1] * (1 - JITTER + 2 * JITTER * chance)
    return max(own, min(retry_after_s or 0.0, MOST_RETRY_AFTER_S))


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """Read a header ``Retry-After`` (RFC 9110, section 10.2.3): seconds, or a date; None: it is absent or neither.

    Args:
        now_s: Unix seconds.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    date = parsedate_tz(text)
    if date is None:
        return None
    try:
        return max(0.0, mktime_tz(date) - now_s)
    except (ValueError, OverflowError):
        return None
