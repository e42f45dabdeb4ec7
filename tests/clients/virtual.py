"""A clock and a network of the tests' own: a driver whose answers come from a script, and whose pauses pass at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlencode

import pytest

from penstock._core import http
from penstock._core.drivers import SyncDriver
from penstock._core.flows import Deliver, Flow, Items, Open, Read, Send, Sleep
from penstock._core.http import Settings
from penstock._core.replies import Reply
from penstock._core.requests import Request
from penstock._core.retry import RetryPolicy
from penstock.client import _Client
from penstock.errors import APIConnectionError, APITimeoutError, PenstockError

T = TypeVar("T")
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Streamed:
    """Bytes of a stream, and how its connection ends after them."""

    data: bytes
    cut: bool = False
    lasts_s: float = 0.0


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    request: Request
    at: float

    @property
    def query(self) -> str:
        return urlencode(self.request.params)

    @property
    def sent(self) -> tuple[Any, ...]:
        """Everything that a repetition has to repeat."""
        request = self.request
        return request.method, request.path, self.query, dict(request.headers), request.body


Answer = Mapping[str, Any] | Streamed


@dataclass
class VirtualDriver(SyncDriver):
    """Carries out flows. ``answer`` gets each request."""

    settings: Settings
    answer: Callable[[Request], Answer]
    now: float = 100.0
    seen: list[Seen] = field(default_factory=list)
    _pieces: Iterator[bytes | PenstockError] = field(default_factory=lambda: iter(()))

    def run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                step = self._resume(flow, step)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def iterate(self, items: Items[T]) -> Generator[T]:
        try:
            step = next(items)
            while True:
                if isinstance(step, Deliver):
                    yield step.item
                    step = next(items)
                else:
                    step = self._resume(items, step)
        except StopIteration:
            return

    def _resume(self, flow: Any, step: Any) -> Any:
        got = self._carry_out(step)
        return flow.throw(got) if isinstance(got, PenstockError) else flow.send(got)

    def _carry_out(self, step: Any) -> Reply | PenstockError | None:
        if isinstance(step, Sleep):
            self.now += step.seconds
            return None
        if isinstance(step, Read):
            piece = next(self._pieces, b"")
            return piece if isinstance(piece, PenstockError) else Reply(0, {}, piece)
        assert isinstance(step, Send | Open)
        self.seen.append(Seen(step.request, self.now))
        return self._reply(self.answer(step.request), step.request)

    def _reply(self, answer: Answer, request: Request) -> Reply | PenstockError:
        if isinstance(answer, Streamed):
            self._pieces = self._body(answer)
            return Reply(200, {"content-type": "text/event-stream; charset=utf-8"}, b"")
        fault = answer.get("fault")
        if fault == "timeout":
            most_s = TIMEOUT_S + request.extra_timeout_s
            self.now += most_s if request.max_s is None else min(most_s, request.max_s)
            return APITimeoutError("no answer in time")
        if fault is not None:
            return APIConnectionError(fault, sent=fault != "refused")
        self.now += answer.get("takes_s", 0.0)
        body = answer.get("text", json.dumps(answer["body"]) if "body" in answer else "").encode()
        self._pieces = iter((body,))
        return Reply(answer["status"], answer.get("headers", {"content-type": "application/json"}), body)

    def _body(self, streamed: Streamed) -> Iterator[bytes | PenstockError]:
        half = len(streamed.data) // 2
        yield from (piece for piece in (streamed.data[:half], streamed.data[half:]) if piece)
        self.now += streamed.lasts_s
        if streamed.cut:
            yield APIConnectionError("reset")


class VirtualClient(_Client[SyncDriver]):
    """The calls of :class:`penstock.Penstock`, of a server that answers as told."""

    def __init__(self, driver: VirtualDriver) -> None:
        super().__init__(driver)
        self.driver = driver


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> Callable[..., VirtualClient]:
    """Make clients of a server that answers as told."""

    def make(
        answer: Callable[[Request], Answer], max_retries: int = 4, max_retry_s: float = 120.0
    ) -> VirtualClient:
        clock: list[VirtualDriver] = []
        policy = partial(RetryPolicy, clock=lambda: clock[0].now)
        monkeypatch.setattr(http, "RetryPolicy", policy)
        settings = Settings.resolve(
            "http://penstock.test", None, TIMEOUT_S, max_retries, 10, max_retry_s, None
        )
        clock.append(VirtualDriver(settings, answer))
        return VirtualClient(clock[0])

    return make
