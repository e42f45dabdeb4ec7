"""For receivers of webhooks: check the signature of a request, and read its event.

The signature is that of Standard Webhooks (https://www.standardwebhooks.com). Checking needs the package
``standardwebhooks``, which the extra ``webhooks`` of this package installs.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.errors import WebhookSignatureError
from penstock.webhook_models import Notification


def unwrap(body: bytes | str, headers: Mapping[str, str], secret: str) -> Notification:
    """Check that Penstock sent a request, in the last five minutes, and return its event.

    Args:
        body: as it came, not parsed.
        headers: the request's: ``webhook-id``, ``webhook-timestamp`` and ``webhook-signature``, in any case.
        secret: ``whsec_...``, of the endpoint, or of the tenant for the ``webhook_url`` of one job.

    Raises:
        WebhookSignatureError: the signature is wrong, or the request is too old; answer it with 400.
        ModuleNotFoundError: the package ``standardwebhooks`` is not installed.
    """
    from standardwebhooks import Webhook, WebhookVerificationError

    lower = {name.lower(): value for name, value in headers.items()}
    try:
        body_read = Webhook(secret).verify(body, lower)
    except (WebhookVerificationError, ValueError) as error:
        raise WebhookSignatureError(f"not a webhook of ours: {error}") from error
    return Notification.model_validate(body_read)
