"""A bound on failed tries by address, in a bounded memory."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

MINUTE_S = 60.0

_ADDRESSES = 10_000


class Throttle:
    """Counts failed tries of each address in this process: a token bucket, kept as one time (GCRA).

    An IPv6 address counts with its neighbours of the same /64, which one customer has. Of more than 10,000 addresses, those
    that failed longest ago are forgotten.

    Args:
        per_minute: tries that may fail in a minute.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap_s = MINUTE_S / per_minute
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()  # when the address has all of its tries again

    def wait_s(self, address: str) -> int:
        """Return the seconds until the address may try again; 0: it may now."""
        full_at = self._full_at.get(_place(address), 0.0)
        return max(0, math.ceil(full_at - self._clock() - MINUTE_S + self._gap_s))

    def failed(self, address: str) -> None:
        """Note a failed try."""
        place, now = _place(address), self._clock()
        self._full_at[place] = max(self._full_at.get(place, now), now) + self._gap_s
        self._full_at.move_to_end(place)
        if len(self._full_at) > _ADDRESSES:
            self._full_at.popitem(last=False)


def _place(address: str) -> str:
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
