"""The two clients: the same calls, returned by one and awaited by the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import httpx

from penstock._core import flows, replies
from penstock._core.drivers import AsyncDriver, SyncDriver
from penstock._core.flows import Flow
from penstock._core.http import Settings
from penstock._core.parts import Call, Driver, Part
from penstock._core.requests import Request
from penstock._core.retry import MAX_RETRY_S
from penstock.errors import Retry
from penstock.models import Health, Model, Page
from penstock.resources.adapters import Adapters
from penstock.resources.batches import Batches
from penstock.resources.chats import Chats
from penstock.resources.dead import Dead
from penstock.resources.files import Files
from penstock.resources.jobs import Jobs
from penstock.resources.keys import Keys
from penstock.resources.ledgers import Audit, Usage
from penstock.resources.pools import Pools
from penstock.resources.rollouts import Aliases, Rollouts
from penstock.resources.tenants import Tenants
from penstock.resources.webhooks import Webhooks
from penstock.resources.workers import Workers


class _Client(Part[Driver]):
    """The calls on a client itself: questions about the server, and shortcuts to the most used of ``jobs``."""

    submit = Jobs.submit
    wait = Jobs.wait
    stream = Jobs.stream

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.jobs = Jobs(driver)
        self.chats = Chats(driver)
        self.pools = Pools(driver)
        self.workers = Workers(driver)
        self.dead = Dead(driver)
        self.batches = Batches(driver)
        self.files = Files(driver)
        self.keys = Keys(driver)
        self.tenants = Tenants(driver)
        self.rollouts = Rollouts(driver)
        self.aliases = Aliases(driver)
        self.adapters = Adapters(driver)
        self.usage = Usage(driver)
        self.audit = Audit(driver)
        self.webhooks = Webhooks(driver)

    @property
    def base_url(self) -> str:
        """The server's address in use."""
        return self._settings.url

    @Call
    def health(self) -> Flow[Health]:
        """Return whether the server can run jobs now. A server that is not ready raises nothing.

        Raises:
            APIConnectionError: no answer.
            APIStatusError, APIResponseError: the answer is not a health report.
        """
        reply = yield from flows.answer(
            flows.Send(Request("GET", "/health/ready"))
        )  # no retries: 503 is an answer
        if reply.status in {200, 503} and b'"status"' in reply.body:
            return replies.parse(reply, Health)
        if reply.status == 200:
            what = "the server's health answer has no status: is this the address of a Penstock server?"
            raise replies.unexpected(reply, what)
        raise replies.status_error(reply)

    @Call
    def models(self) -> Flow[tuple[Model, ...]]:
        """Return the models served now."""
        return (yield from self._fetch(Request("GET", "/v1/models"), Page[Model])).data


class Penstock(_Client[SyncDriver]):
    """A client of one Penstock server. Threads may share it. Close it, or use it in a ``with``.

    A call is retried on connection errors and on 408, 429, 502, 503 and 504, with backoff and after the server's
    Retry-After. A submission carries an idempotency key, so it never runs twice. A call that would do more the second
    time (``pools.purge``, ``workers.drain``, ``dead.retry`` without ids) is retried only if the first certainly did
    not reach the server. Redirects are followed within the same host, never from https to http.

    Args:
        base_url: the server's address; None takes ``PENSTOCK_URL``, or else ``http://127.0.0.1:8080``. A user and password
            in it are sent by HTTP's basic authentication in place of the key, and are in no message.
        api_key: sent as a bearer token; None takes ``PENSTOCK_API_KEY``, or else sends none. Empty sends none.
        timeout: seconds without any answer before a try is given up; waits asked of the server come on top.
        max_retries: further tries of one call.
        max_reconnects: tries in a row that bring nothing new, to reopen an event stream or continue a wait.
        max_retry_s: no try of a call begins later than this many seconds after its first failure. A server that asks
            for a longer pause gets no retry.
        on_retry: is called before each pause, with a :class:`penstock.Retry`; both clients call it directly.
        ca_file: PEM file with authorities to trust besides the usual ones (or those of ``SSL_CERT_FILE``); None takes
            ``PENSTOCK_CA_FILE``.
        http_client: an httpx client of your own (proxies, certificates), which ``ca_file`` does not change; you close
            it. Ours shows ``PENSTOCK_CLIENT_CERT_FILE`` to servers that ask for a certificate.

    Raises:
        ArgumentError: an argument is out of range, or no header can carry the key.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        max_retries: int = 4,
        max_reconnects: int = 10,
        max_retry_s: float = MAX_RETRY_S,
        on_retry: Callable[[Retry], object] | None = None,
        ca_file: str | None = None,
        http_client: httpx.Client | None = None,
    ) -> None:
        settings = Settings.resolve(
            base_url, api_key, timeout, max_retries, max_reconnects, max_retry_s, on_retry, ca_file
        )
        super().__init__(SyncDriver(settings, http_client))

    def close(self) -> None:
        """Close the connections."""
        self._driver.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()


class AsyncPenstock(_Client[AsyncDriver]):
    """A client of one Penstock server for one event loop. Close it, or use it in an ``async with``.

    It has the arguments and the calls of :class:`penstock.Penstock`; ``http_client`` is an
    :class:`httpx.AsyncClient`. To leave an iterator early, close it (``contextlib.aclosing``), so that its connection
    is closed at once.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        max_retries: int = 4,
        max_reconnects: int = 10,
        max_retry_s: float = MAX_RETRY_S,
        on_retry: Callable[[Retry], object] | None = None,
        ca_file: str | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        settings = Settings.resolve(
            base_url, api_key, timeout, max_retries, max_reconnects, max_retry_s, on_retry, ca_file
        )
        super().__init__(AsyncDriver(settings, http_client))

    async def close(self) -> None:
        """Close the connections."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.close()
