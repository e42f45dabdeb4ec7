"""Penstock's client: submit jobs, follow them, read their results.

    from penstock import Penstock

    with Penstock() as client:
        job = client.submit({"model": "m", "messages": [{"role": "user", "content": "Hello"}]}, stream=True)
        for text in client.stream(job.id):
            print(text, end="")

:class:`Penstock` and :class:`AsyncPenstock` have the same methods. All errors are :class:`PenstockError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from penstock._version import __version__

if TYPE_CHECKING:
    from penstock.batch_models import (
        Batch,
        BatchEvent,
        File,
        Progress,
        RequestCounts,
        ResultPage,
        Verification,
    )
    from penstock.client import AsyncPenstock, Penstock
    from penstock.errors import (
        APIConnectionError,
        APIResponseError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        BatchEndedError,
        BatchWaitTimeoutError,
        ConflictError,
        JobCancelledError,
        JobEndedError,
        JobExpiredError,
        JobFailedError,
        JobNotFinishedError,
        NotFoundError,
        PenstockError,
        PermissionDeniedError,
        RateLimitedError,
        ServerError,
        StreamRestartedError,
        UnavailableError,
        WaitTimeoutError,
    )
    from penstock.fleet_models import Gpu, Lane, Pool, Tenant, Worker
    from penstock.models import (
        Event,
        Health,
        Job,
        JobError,
        JobRequest,
        JobWarning,
        Model,
        Page,
        Placement,
        Restarted,
        RetryOutcome,
        RetryReport,
        Timings,
        Usage,
    )

__all__ = [
    "APIConnectionError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncPenstock",
    "AuthenticationError",
    "BadRequestError",
    "Batch",
    "BatchEndedError",
    "BatchEvent",
    "BatchWaitTimeoutError",
    "ConflictError",
    "Event",
    "File",
    "Gpu",
    "Health",
    "Job",
    "JobCancelledError",
    "JobEndedError",
    "JobError",
    "JobExpiredError",
    "JobFailedError",
    "JobNotFinishedError",
    "JobRequest",
    "JobWarning",
    "Lane",
    "Model",
    "NotFoundError",
    "Page",
    "Penstock",
    "PenstockError",
    "PermissionDeniedError",
    "Placement",
    "Pool",
    "Progress",
    "RateLimitedError",
    "RequestCounts",
    "Restarted",
    "ResultPage",
    "RetryOutcome",
    "RetryReport",
    "ServerError",
    "StreamRestartedError",
    "Tenant",
    "Timings",
    "UnavailableError",
    "Usage",
    "Verification",
    "WaitTimeoutError",
    "Worker",
    "__version__",
]

_HOMES = ("errors", "models", "batch_models", "fleet_models", "client")
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
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """Return the exported names, loaded or not."""
    return sorted(__all__)
