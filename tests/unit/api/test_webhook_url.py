"""Where webhooks may go, by the operator's settings."""

from __future__ import annotations

import pytest

from api.admission.webhook_url import check_webhook_url
from api.http.errors import ApiError
from api.services import Services
from api.settings import ApiSettings

pytestmark = pytest.mark.asyncio


def services(**settings: object) -> Services:
    return Services(ApiSettings.model_validate(settings))


@pytest.mark.parametrize(
    ("hosts", "host"),
    [
        ("*", "a.example.org"),
        ("a.example.org,b.example.org", "B.example.org."),
        ("*.example.org", "a.b.example.org"),
    ],
)
async def test_a_named_host_is_allowed(hosts: str, host: str) -> None:
    await check_webhook_url(services(webhook_hosts=hosts), f"https://{host}/x", "url")


@pytest.mark.parametrize(
    ("hosts", "host"),
    [
        ("", "a.example.org"),
        ("a.example.org", "a.example.org.evil.com"),
        ("*.example.org", "example.org"),
        ("*.example.org", "anexample.org"),
    ],
)
async def test_another_host_is_refused(hosts: str, host: str) -> None:
    with pytest.raises(ApiError) as refused:
        await check_webhook_url(services(webhook_hosts=hosts), f"https://{host}/x", "url")
    assert (refused.value.status, refused.value.code, refused.value.param) == (403, "host_not_allowed", "url")


async def test_an_operator_allows_http_and_private_networks() -> None:
    allowing = services(webhook_allow_http=True, webhook_allow_private="127.0.0.0/8")
    await check_webhook_url(allowing, "http://127.0.0.1:9000/x", "url")
    with pytest.raises(ApiError) as refused:
        await check_webhook_url(allowing, "http://10.0.0.1/x", "url")
    assert refused.value.status == 400
