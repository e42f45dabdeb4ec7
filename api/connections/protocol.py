"""uvicorn's HTTP protocol with bounds: how much a client may send before a request begins, and how long it may take."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, cast

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.connections.limits import Limits
from api.connections.lingering import LingeringTransport
from api.connections.pace import Reading, Writing
from api.connections.refusals import (
    body_too_slow,
    head_too_large,
    head_too_slow,
    stopping,
    too_many_connections,
    whole_answer,
)
from api.connections.upgrades import head_without_upgrade
from api.http.errors import READER_TOO_SLOW, ApiError, invalid
from api.http.hangup import HANGUP, Hangup

log = structlog.get_logger(__name__)

LINGER_BYTES = 64 * 1024 * 1024
"""How much of a request that is already answered is read and dropped."""

_OVER = 128
"""Connections beyond the limit that may ask for the server's health, or read their refusal; further ones are cut."""

_OVER_HEAD_S = 1.0
"""How long one of these may take to ask."""

_HEALTH = re.compile(rb"/health(?:[/?]|$)")

_TICK_S = 1.0


class _Part(Enum):
    """Which part of a request comes next from the client."""

    NOTHING = auto()
    HEAD = auto()
    BODY = auto()


class BoundedProtocol(HttpToolsProtocol):
    """One connection. It refuses by itself what never becomes a request.

    Args:
        limits: the bounds.
        count: takes the code of each refusal.
        args: as of uvicorn's protocol.
    """

    def __init__(self, *args: Any, limits: Limits, count: Callable[[str], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = b""
        self._limits = limits
        self._count = count
        self._part = _Part.NOTHING
        self._progress = False
        self._unparsed = self._fed = self._lead = 0
        self._dropped = 0
        self._refused = False
        self._last = False
        self._over = False
        self._lost = False
        self._refusal: ApiError | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._tick_s = min(_TICK_S, limits.read_timeout_s / 4, limits.write_timeout_s / 4)
        self._reading = Reading(limits.read_timeout_s, limits.min_bytes_per_s)
        self._writing = Writing(limits.write_timeout_s, limits.min_bytes_per_s)

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or cut it: one that is open already never suffers for a new one."""
        self._transport = LingeringTransport(transport, self._unread, self._watch)
        super().connection_made(cast("asyncio.Transport", self._transport))
        self._hangup = Hangup(self.flow.resume_reading)
        over = len(self.connections) - self._limits.max_connections
        if over > _OVER:
            self._refused = True
            self._count("too_many_connections")
            transport.abort()
        else:
            self._over = over > 0
            self._begin_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop every timer."""
        for timer in (self._head_timer, self._tick_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._tick_timer = None
        self._lost = True
        self._transport.forget()
        super().connection_lost(exc)
        self._hangup.happen()
        self._unset_keepalive_if_required()

    @property
    def is_waited_for(self) -> bool:
        """Whether the end of the process waits for it. Followers of events resume on another process."""
        if self._busy():
            return not (self.cycle.disconnected or self.cycle.scope["path"].endswith("/events"))
        return self._under_way()

    def _under_way(self) -> bool:
        """Return whether a head is half here, or the client still sends and has its answer to read."""
        return self._part is _Part.HEAD or self._transport.lingering

    def drain(self, *, close: bool) -> None:
        """Let the present or next call be the last one. ``close``: close if none is open, and one was asked."""
        self._last = True
        if self._busy():
            self.cycle.keep_alive = False
        elif close and self.cycle is not None and not self._under_way():
            self.transport.close()

    def cut(self) -> None:
        """End the present call, because the process ends."""
        if self._busy():
            self._leave_cycle()
            answered = self.cycle.response_started or self._refused or self._transport.is_closing()
            if not answered and not self.pipeline:
                error = stopping()
                self._count(error.code)
                self.transport.write(whole_answer(error, self.server_state.default_headers))
        self._refused = True
        self._transport.close_now()

    def _unread(self) -> bool:
        return self._refused or self._part is not _Part.NOTHING

    # What the client sends

    def data_received(self, data: bytes) -> None:
        """Parse bytes, and refuse what exceeds the bounds."""
        self._unset_keepalive_if_required()
        if self._refused or self._transport.lingering:
            self._drop(data)
            return
        self._progress = False
        self._fed = len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(self._refusal or invalid("the request is not HTTP/1.1"))
            return
        if self._progress:
            self._unparsed = 0
        else:
            self._unparsed += len(data)
            if self._unparsed > self._limits.max_head_bytes:
                self._refuse(head_too_large(self.url, self._limits))
                return
        if self._part is _Part.BODY:
            self._watch()
        elif self._part is _Part.HEAD or not self._progress:  # blank lines before a request are no progress
            self._begin_head_timer()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            # The client offers another protocol (the JDK: h2c). The parser takes the body for that protocol's bytes; we
            # stay with HTTP/1.1 (RFC 9110 section 7.8), so the same request is parsed again without the offer.
            head = head_without_upgrade(self.parser, self.url, self.headers)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self._fed = len(head)
            self.parser.feed_data(head + data[stopped.args[0] :])

    def _offers_upgrade(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _drop(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self._transport.abort()

    # The parser's events

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._progress, self._part = True, _Part.HEAD
        self._lead = self._fed
        super().on_message_begin()
        self.scope[HANGUP] = self._hangup  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is too large or has to be parsed again."""
        self._progress = True
        if self._offers_upgrade():
            return
        most, arrived = self._limits.max_head_bytes, self._lead + self._unparsed + self._fed
        if arrived > most and self._head_size() > most:  # counted only if so much arrived
            self._refusal = head_too_large(self.url, self._limits)
            raise self._refusal
        if (
            self._over
            and not _HEALTH.match(self.url)
            and len(self.connections) > self._limits.max_connections
        ):
            self._refusal = too_many_connections()
            raise self._refusal
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._dropped = 0
        self._reading.begin(self.loop.time())
        super().on_headers_complete()
        if self._last or self._over:
            self.cycle.keep_alive = False
        self._part = _Part.BODY

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        """Pass a piece on; drop it if the request is answered."""
        self._progress = True
        self._reading.took(len(body), self.loop.time())
        if self.cycle.response_complete:
            self._drop(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request, unless it is parsed again."""
        self._progress = True
        if self._offers_upgrade():
            return
        self._part = _Part.NOTHING
        super().on_message_complete()

    # Refusals

    def send_400_response(self, msg: str) -> None:
        """Refuse as everywhere else, in JSON."""
        self._refuse(invalid(msg))

    def _refuse(self, error: ApiError) -> None:
        """Answer by ourselves and close."""
        self._refused = True
        self._count(error.code)
        log.debug("connection_refused", code=error.code)
        if self._busy():
            if self.pipeline:  # others are answered before it
                self._transport.abort()
                return
            if self._part is not _Part.BODY:  # an earlier request is being answered, and still is
                self.cycle.keep_alive = False
                return
            self._leave_cycle()
        if self._part is not _Part.BODY or not self._answered():
            self.transport.write(whole_answer(error, self.server_state.default_headers))
        self.transport.close()

    def _leave_cycle(self) -> None:
        """End the present call: for the application the client is gone."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self._hangup.happen()

    def _answered(self) -> bool:
        """Return whether the present request has its answer, or a part of it."""
        return self.cycle is not None and (self.cycle.response_started or self.cycle.response_complete)

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # Time

    def _begin_head_timer(self) -> None:
        if self._head_timer is None:
            limit_s = (
                min(_OVER_HEAD_S, self._limits.head_timeout_s) if self._over else self._limits.head_timeout_s
            )
            self._head_timer = self.loop.call_later(limit_s, self._head_is_late)

    def _head_is_late(self) -> None:
        timer, self._head_timer = self._head_timer, None
        if self._refused or timer is None:
            return
        if self.flow.read_paused or self.loop.time() - timer.when() > self._tick_s:  # the client waits for us
            self._begin_head_timer()
        elif self._over and not self._busy():
            self._refuse(too_many_connections())
        elif self._part is _Part.HEAD:
            self._refuse(head_too_slow(self._limits.head_timeout_s))
        elif not self._busy():
            self.transport.close()  # nothing was asked

    def _watch(self) -> None:
        if self._tick_timer is None and not self._lost:
            self._tick_timer = self.loop.call_later(self._tick_s, self._tick)

    def _tick(self) -> None:
        timer, self._tick_timer = self._tick_timer, None
        now = self.loop.time()
        if (
            timer is not None and now - timer.when() > self._tick_s
        ):  # this process was frozen, and read and wrote nothing
            self._reading.pause(now - timer.when())
            self._writing.rest()
        if self._part is _Part.BODY and not self._refused:
            if self._client_waits():
                self._reading.pause(self._tick_s)
            elif self._reading.late(now):
                self._refuse(body_too_slow(self._limits.read_timeout_s, self._limits.min_bytes_per_s))
            self._watch()
        if self._busy() and not self.flow.write_paused:
            self._writing.rest()  # the application still writes, so nobody can see how much the client read
        elif self._writing.late(self._transport, now):
            self._count(READER_TOO_SLOW)
            log.info("reader_cut", waiting_bytes=self._transport.get_write_buffer_size())
            self._transport.abort()
        elif self._writing.waits:
            self._watch()

    def _client_waits(self) -> bool:
        """Return whether the body cannot come, because we do not read it or did not ask for it."""
        return self.flow.read_paused or (self._busy() and self.cycle.waiting_for_100_continue)

    # What the client reads

    def pause_writing(self) -> None:
        """More waits to be written than the client takes: from now on its time counts."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Most of it is written: the time counts anew."""
        super().resume_writing()
        self._writing.rest()

    def on_response_complete(self) -> None:
        """End an answer. What is not written yet has its time too."""
        super().on_response_complete()
        if self._transport.get_write_buffer_size():
            self._watch()
