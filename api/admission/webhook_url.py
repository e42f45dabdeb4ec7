"""The address of a webhook, as a client gives it: one for every face."""

from __future__ import annotations

from starlette.types import Scope

from api.http.asgi import header
from api.http.errors import ApiError, invalid
from api.services import Services
from jobs.webhook_targets import TargetError, check_target

ANY = "*"


async def check_webhook_url(services: Services, url: str, param: str, of_one_for: str | None = None) -> None:
    """Check an address before it is kept. Its host is resolved, and checked again, when something is sent.

    Args:
        url: the address.
        param: the field that has it.
        of_one_for: the tenant whose one job or batch it is for; its secret is made if it has none.

    Raises:
        ApiError: 400, nothing may be sent there; 403, the setting ``webhook_hosts`` does not allow it.
    """
    settings = services.settings
    try:
        host = check_target(url, allow_http=settings.webhook_allow_http, allowed=settings.webhook_networks)
    except TargetError as error:
        raise invalid(f"{param}: {error}", param, "invalid_value") from None
    if not any(_matches(host, pattern) for pattern in settings.webhook_hosts):
        message = f"webhooks may not go to {host!r}: the operator's setting webhook_hosts does not name it"
        raise ApiError(403, message, "host_not_allowed", param=param)
    if of_one_for is not None:
        await services.webhooks.tenant_secret(of_one_for)


async def asked_webhook(services: Services, scope: Scope, tenant: str) -> str | None:
    """Return the address that the header ``X-Penstock-Webhook`` of an OpenAI call in the background names; None: none.

    Raises:
        ApiError: as :func:`check_webhook_url`.
    """
    given = header(scope, b"x-penstock-webhook")
    if given is None:
        return None
    url = given.decode("latin-1")
    await check_webhook_url(services, url, "x-penstock-webhook", tenant)
    return url


def _matches(host: str, pattern: str) -> bool:
    host, pattern = host.lower().rstrip("."), pattern.lower()
    return pattern in {ANY, host} or (pattern.startswith("*.") and host.endswith(pattern[1:]))
