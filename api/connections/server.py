"""uvicorn's server with a stop that nobody notices behind a load balancer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import structlog
import uvicorn

from api.connections.protocol import BoundedProtocol
from api.connections.tls import Tls

log = structlog.get_logger(__name__)

CUT_S = 1
"""How long the calls that are cut off at the end have for their own clean-up."""

_LOOK_S = 0.05

_TLS_LOOK_TICKS = 20
"""Between two looks at the files of TLS; uvicorn ticks every 0.1 s."""


class DrainingServer(uvicorn.Server):
    """Serves until a signal, then stops in order.

    First ``stopping`` is called, so that readiness fails. The port stays open, for a load balancer needs a moment to look,
    and new calls are served as ever, also on connections that are kept. When ``delay_s`` is over, a connection is closed
    as soon as nothing is under way on it. When no call is open, or ``grace_s`` is over, the port and the open calls
    are closed. A second signal ends the wait.

    Args:
        config: uvicorn's.
        grace_s: longest wait for open calls.
        delay_s: shortest time before the port is closed.
        stopping: called once, at the beginning.
        tls: serve TLS; None: plain HTTP.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        grace_s: float,
        delay_s: float,
        stopping: Callable[[], None],
        tls: Tls | None = None,
    ) -> None:
        super().__init__(config)
        self._grace_s = max(grace_s, delay_s)
        self._delay_s = delay_s
        self._stopping = stopping
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. uvicorn's own TLS would read the certificate once and for all."""
        if self._tls is not None:
            self.config.ssl = self._tls.context
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Look at the files of TLS now and then."""
        if self._tls is not None and counter % _TLS_LOOK_TICKS == 0:
            self._tls.look()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal; the second one hurries. uvicorn's own would end the process by that signal: ours ends well."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Stop in order."""
        self._stopping()
        loop = asyncio.get_running_loop()
        began = loop.time()
        log.info("api_stopping", open_calls=self._open_calls())
        while not self.force_exit:
            passed_s = loop.time() - began
            if passed_s >= self._grace_s or (passed_s >= self._delay_s and not self._open_calls()):
                break
            for connection in self._connections():
                connection.drain(close=passed_s >= self._delay_s)
            await asyncio.sleep(_LOOK_S)
        for connection in self._connections():
            connection.cut()
        await super().shutdown(None)

    def _connections(self) -> list[BoundedProtocol]:
        return [one for one in self.server_state.connections if isinstance(one, BoundedProtocol)]

    def _open_calls(self) -> int:
        return sum(connection.is_waited_for for connection in self._connections())
