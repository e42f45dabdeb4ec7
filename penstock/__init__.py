"""Penstock's client: submit jobs, follow them, read their results.

    from penstock import Penstock

    with Penstock() as client:
        job = client.submit({"model": "m", "messages": [{"role": "user", "content": "Hello"}]}, stream=True)
        for text in client.stream(job.id):
            print(text, end="")

``client.submit``, ``wait`` and ``stream`` are shortcuts. Everything else is grouped by what it is about: ``client.jobs``,
``chats``, ``pools``, ``workers``, ``dead``, ``batches``, ``files``, ``webhooks``, ``usage``, and for administrators
``keys``, ``tenants``, ``adapters`` and ``audit``. :class:`AsyncPenstock` has the same calls as :class:`Penstock`, to be
awaited. All errors are :class:`PenstockError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from penstock._version import __version__

if TYPE_CHECKING:  # for type checkers; at run time __getattr__ finds the names
    from penstock.batch_models import *
    from penstock.client import AsyncPenstock, Penstock
    from penstock.errors import *
    from penstock.fleet_models import *
    from penstock.key_models import *
    from penstock.models import *
    from penstock.webhook_models import *

__all__ = ["AsyncPenstock", "Penstock", "__version__"]
__all__ += ["APIConnectionError", "APIResponseError", "APIStatusError", "APITimeoutError", "ArgumentError"]
__all__ += ["AuthenticationError", "BadRequestError", "BatchEndedError", "BatchWaitTimeoutError"]
__all__ += ["ConflictError", "JobCancelledError", "JobEndedError", "JobExpiredError", "JobFailedError"]
__all__ += ["JobNotFinishedError", "NotFoundError", "PenstockError", "PermissionDeniedError"]
__all__ += ["RateLimitedError", "ServerError", "StreamRestartedError", "UnavailableError", "WaitTimeoutError"]
__all__ += [
    "DeadGroup",
    "DeadGroups",
    "Event",
    "Health",
    "Job",
    "JobError",
    "JobRequest",
    "JobWarning",
    "Model",
    "Page",
    "Placement",
]
__all__ += ["Restarted", "Retry", "RetryOutcome", "RetryReport", "Timings", "Usage"]
__all__ += ["Batch", "BatchEvent", "File", "Progress", "RequestCounts", "ResultPage", "Verification"]
__all__ += ["ApiKey", "Gpu", "Lane", "Pool", "Tenant", "Worker"]
__all__ += ["DeadLetter", "Delivery", "Notification", "Webhook", "WebhookSignatureError"]

_HOMES = ("errors", "models", "batch_models", "fleet_models", "key_models", "webhook_models", "client")
"""Where the names come from. The lightest comes first: errors need no pydantic, and only the client needs httpx."""


def __getattr__(name: str) -> object:
    """Import an exported name on first use: ``penstock --help`` needs neither httpx nor pydantic."""
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"{__name__}.{home}")
            if hasattr(module, name):
                value: object = getattr(module, name)
                globals()[name] = value
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the exported names, loaded or not."""
    return sorted(__all__)
