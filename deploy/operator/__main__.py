"""``python -m deploy.operator``: runs the operator until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import sys

import kopf
from lightkube import AsyncClient
from pydantic import ValidationError

from deploy.operator.acting import Acting
from deploy.operator.base import read_base
from deploy.operator.handlers import WAITS, Handlers
from deploy.operator.looking import Looking
from deploy.operator.reconciling import Reconciling
from deploy.operator.settings import OperatorSettings
from penstock import AsyncPenstock


async def run(settings: OperatorSettings) -> None:
    """Run the operator.

    Raises:
        ValueError: the chart's file is not what it should be.
    """
    base = read_base(settings.base_file)
    kube = AsyncClient(namespace=settings.namespace)
    async with AsyncPenstock(max_retries=1, timeout=10.0) as penstock:
        place = (kube, penstock, settings.namespace)
        looking = Looking(*place, base.instance)
        reconciling = Reconciling(base, looking, Acting(*place), settings.release_after_s)
        await kopf.operator(
            registry=Handlers(settings, reconciling).registry(),
            namespaces=[settings.namespace],
            standalone=True,
            liveness_endpoint=f"http://0.0.0.0:{settings.health_port}/healthz"
            if settings.health_port
            else None,
        )
    await kube.close()


def main() -> int:
    """Return the exit status: 1 with a message for wrong settings."""
    kopf.configure(log_format=kopf.LogFormat.JSON)
    logging.basicConfig(level=logging.INFO)
    for name in ("httpx", "httpx2", "kopf.objects"):  # each request, and each call of a handler
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("kopf.objects").addFilter(lambda record: WAITS not in record.getMessage())
    try:
        asyncio.run(run(OperatorSettings()))
    except (ValidationError, ValueError) as error:
        print(f"penstock operator: {error}", file=sys.stderr)  # noqa: T201 - it has no log yet
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
