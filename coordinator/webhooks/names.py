"""Looks up the names of hosts that clients chose, and lets through those whose addresses are all allowed."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

from jobs.addresses import Allowed
from jobs.webhook_targets import check_address

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class SystemNames(AbstractResolver):
    """The system's resolver, in threads of its own: a name server that never answers holds none of the process's others.

    Args:
        threads: look-ups at once.
    """

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises:
            OSError: the name cannot be resolved.
        """
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        )
        return [
            ResolveResult(
                hostname=host, host=str(at[0]), port=port, family=of, proto=protocol, flags=_NUMERIC
            )
            for of, _, protocol, _, at in found
        ]

    async def close(self) -> None:
        """Begin no look-up more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class CheckedNames(AbstractResolver):
    """Lets through hosts whose addresses are all allowed.

    Args:
        allowed: what the operator allows beside public addresses.
        names: looks names up.
    """

    def __init__(self, allowed: Allowed, names: AbstractResolver) -> None:
        self._allowed = allowed
        self._names = names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises:
            TargetError: one of them is not allowed.
            OSError: the name cannot be resolved.
        """
        found = await self._names.resolve(host, port, family)
        for one in found:
            check_address(one["host"], self._allowed)
        return found

    async def close(self) -> None:
        """Close the resolver below."""
        await self._names.close()
