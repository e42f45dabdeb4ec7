"""OpenAI's expiry policy, ``{"anchor": "created_at", "seconds": N}``, as files and batches take it."""

from __future__ import annotations

from typing import Any

from api.http.errors import invalid

MIN_S = 3600
MAX_S = 2_592_000


def expires_after_s(anchor: Any, seconds: Any, param: str) -> int:
    """Read an expiry policy; return its seconds.

    Raises:
        ApiError: 400, the anchor is not ``created_at``, or the seconds are not 3600 to 2592000.
    """
    if anchor != "created_at":
        raise invalid(f"{param}.anchor must be 'created_at'", f"{param}.anchor")
    try:
        value = int(seconds)
    except (TypeError, ValueError):
        value = -1
    if not MIN_S <= value <= MAX_S:
        raise invalid(f"{param}.seconds must be {MIN_S} (an hour) to {MAX_S} (30 days)", f"{param}.seconds")
    return value
