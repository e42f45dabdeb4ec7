"""Whether a request has one answer, so that one run may answer all requests that are identical to it."""

from __future__ import annotations

from jobs.endpoints import ENDPOINTS


def is_deterministic(endpoint: str, temperature: object, seed: object) -> bool:
    """Return whether every run of a request gives the same answer: greedy, seeded, or one that generates nothing.

    The last bits of an engine's numbers may depend on the other requests of its step. Nothing here knows of that.

    Args:
        endpoint: its path.
        temperature: the value in its body; None: there is none, so the model's own default counts.
        seed: the value in its body; None: there is none.
    """
    one = ENDPOINTS.get(endpoint)
    generates = one is None or one.multipart or bool(one.limit_fields)
    return not generates or temperature == 0 or seed is not None
