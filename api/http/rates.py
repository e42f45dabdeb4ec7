"""What is left of a tenant's minute, as OpenAI's headers say it, and the answers of quotas that are used up. Pure.

https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
"""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import Message, Send

from api.http.asgi import Header
from api.http.errors import ApiError, retry_after
from broker.db.errors import OverQuotaError
from jobs.tenants import Rates

_REQUESTS, _TOKENS = (
    tuple(f"x-ratelimit-{what}-{of}".encode() for what in ("limit", "remaining", "reset"))
    for of in ("requests", "tokens")
)
_NO_RETRY = {"x-should-retry": "false"}


def rate_headers(rates: Rates | None) -> dict[str, str]:
    """Return ``x-ratelimit-*`` for each quota of a minute that the tenant has."""
    return {name.decode(): value.decode() for name, value in raw_rate_headers(rates)}


def raw_rate_headers(rates: Rates | None) -> list[Header]:
    """Return the same as ASGI wants them."""
    if rates is None:
        return []
    headers: list[Header] = []
    for (limit, remaining, reset), rate in ((_REQUESTS, rates.requests), (_TOKENS, rates.tokens)):
        if rate is not None:
            most, left, reset_ms = rate
            headers += (limit, b"%d" % most), (remaining, b"%d" % left), (reset, duration(reset_ms).encode())
    return headers


def with_headers(send: Send, headers: list[Header]) -> Send:
    """Return what sends a response with further headers."""
    if not headers:
        return send

    def send_with_headers(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        return send(message)

    return send_with_headers


def duration(ms: int) -> str:
    """Write a time as OpenAI does: ``20ms``, ``1s``, ``6m0s``."""
    if ms < 1000:
        return f"{ms}ms" if ms else "0s"
    minutes, rest = divmod(ms, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def over_quota(error: OverQuotaError) -> ApiError:
    """Make the 429 for a quota that is used up."""
    if error.over in {"requests", "tokens"}:
        return _over_minute(error)
    today = "the tenant's tokens of today are used up"
    message = {
        "day": f"{today}: the quota is {error.most} a day, and this request may take {error.asked}; it is full again at"
        " 00:00 UTC",
        "storage": f"the tenant's files would have more than {error.most} bytes; delete files that are not needed",
        "batches": f"the tenant has {error.most} batches that have not ended, as many as it may; wait for one to end",
    }[error.over]
    more = "; an administrator can raise the quota (penstock tenants set)"
    return ApiError(429, message + more, "insufficient_quota", type_="insufficient_quota")


def _over_minute(error: OverQuotaError) -> ApiError:
    asked = "" if error.over == "requests" else f", and this request may take {error.asked}"
    limit = f"the tenant's quota is {error.most} {error.over} a minute{asked}"
    headers = rate_headers(error.rates)
    if error.wait_ms is None:
        message = f"Rate limit: {limit}, more than ever fits; lower max_tokens or shorten the prompt"
        return ApiError(
            429, message, "rate_limit_exceeded", type_=error.over, headers={**headers, **_NO_RETRY}
        )
    wait_s = retry_after(error.wait_ms)
    message = f"Rate limit reached: {limit}; retry in {wait_s} s"
    return ApiError(
        429, message, "rate_limit_exceeded", type_=error.over, retry_after_s=wait_s, headers=headers
    )
