"""The headers of quotas by the minute, and the answers when a quota is used up."""

from __future__ import annotations

import pytest

from api.http.rates import duration, over_quota, rate_headers
from broker.db.errors import OverQuotaError
from jobs.tenants import Rate, Rates


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0s"),
        (20, "20ms"),
        (999, "999ms"),
        (1000, "1s"),
        (7660, "7.66s"),
        (60_000, "1m0s"),
        (360_000, "6m0s"),
    ],
)
def test_times_are_written_as_openai_does(ms: int, text: str) -> None:
    assert duration(ms) == text


def test_only_quotas_that_are_set_have_headers() -> None:
    assert rate_headers(None) == rate_headers(Rates()) == {}
    assert rate_headers(Rates(tokens=Rate(100, 40, 36_000))) == {
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "40",
        "x-ratelimit-reset-tokens": "36s",
    }


def test_a_refusal_says_when_to_come_back() -> None:
    rates = Rates(requests=Rate(60, 0, 60_000))
    refusal = over_quota(OverQuotaError("requests", 60, 5, 400, rates))
    assert refusal.headers["retry-after"] == "1"
    assert refusal.headers["x-ratelimit-remaining-requests"] == "0"
    assert "x-should-retry" not in refusal.headers


@pytest.mark.parametrize(
    "error",
    [OverQuotaError("tokens", 60, 61, None), OverQuotaError("day", 60, 61), OverQuotaError("batches", 1, 1)],
)
def test_what_waiting_does_not_help_is_not_retried(error: OverQuotaError) -> None:
    refusal = over_quota(error)
    assert refusal.headers["x-should-retry"] == "false"
    assert "retry-after" not in refusal.headers
    assert str(error.most) in refusal.message
