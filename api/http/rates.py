"""What is left of a tenant's minute, as OpenAI's headers say it, and the answers of quotas that are used up. Pure.

https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
"""

from __future__ import annotations

from starlette.types import Message, Send

from api.http.asgi import Header
from api.http.errors import ApiError, retry_after
from broker.db.errors import OverQuotaError
from jobs.tenants import Rates

_NO_RETRY = {"x-should-retry": "false"}


def rate_headers(rates: Rates | None) -> dict[str, str]:
    """Return ``x-ratelimit-*`` for each quota of a minute that the tenant has."""
    headers: dict[str, str] = {}
    for name in ("requests", "tokens"):
        rate = rates and getattr(rates, name)
        if rate:
            headers[f"x-ratelimit-limit-{name}"] = str(rate.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(rate.remaining)
            headers[f"x-ratelimit-reset-{name}"] = duration(rate.reset_ms)
    return headers


def raw_rate_headers(rates: Rates | None) -> list[Header]:
    """Return the same as ASGI wants them."""
    return [(name.encode(), value.encode()) for name, value in rate_headers(rates).items()]


def with_headers(send: Send, headers: list[Header]) -> Send:
    """Return what sends a response with further headers."""
    if not headers:
        return send

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *headers]}
        await send(message)

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
