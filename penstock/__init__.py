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
    from penstock.aclient import AsyncPenstock
    from penstock.client import Penstock
    from penstock.errors import (
        APIConnectionError,
        APIResponseError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
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
        WaitTimeoutError,
    )
    from penstock.models import (
        Event,
        Health,
        Job,
        JobError,
        Model,
        Page,
        Restarted,
        RetryOutcome,
        RetryReport,
        Timings,
        Usage,
        Worker,
    )

__all__ = [
    "APIConnectionError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncPenstock",
    "AuthenticationError",
    "BadRequestError",
    "ConflictError",
    "Event",
    "Health",
    "Job",
    "JobCancelledError",
    "JobEndedError",
    "JobError",
    "JobExpiredError",
    "JobFailedError",
    "JobNotFinishedError",
    "Model",
    "NotFoundError",
    "Page",
    "Penstock",
    "PenstockError",
    "PermissionDeniedError",
    "RateLimitedError",
    "Restarted",
    "RetryOutcome",
    "RetryReport",
    "ServerError",
    "StreamRestartedError",
    "Timings",
    "Usage",
    "WaitTimeoutError",
    "Worker",
    "__version__",
]

_MODELS = {
    *("Event", "Health", "Job", "JobError", "Model", "Page", "Restarted"),
    *("RetryOutcome", "RetryReport", "Timings", "Usage", "Worker"),
}


def __getattr__(name: str) -> object:
    """Import an exported name on first use: ``penstock --help`` needs neither httpx nor pydantic."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    if name == "Penstock":
        home = "client"
    elif name == "AsyncPenstock":
        home = "aclient"
    else:
        home = "models" if name in _MODELS else "errors"
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the exported names, loaded or not."""
    return sorted(__all__)
