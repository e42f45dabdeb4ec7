"""Where a call's time to first token goes, by stage, from the traces that Penstock sends to a collector in this process.

    accept     from the caller's first byte until the job is on disk
    claim      until a worker has it and hands it to its engine
    render     until vLLM's front has handed it to the engine core: template, tokens
    engine     until the first token is back in the worker
    delivery   until the caller has its text

Only calls are traced: bulk says that it is not to be (``traceparent`` with the flag 00).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

from _calls import Call, quantiles
from _stack import free_port

STAGES = ("accept", "claim", "render", "engine", "delivery")
SENT_WITHIN_S = 1.5
ENV = {"PENSTOCK_TRACE_RATIO": "0", "PENSTOCK_TRACE_MAX_PER_S": "0", "OTEL_BSP_SCHEDULE_DELAY": "500"}
_TAKEN = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"


class Collector:
    """Takes spans as OTLP over HTTP during its block, and decodes them when asked: not while something is measured."""

    def __init__(self) -> None:
        self._port = free_port()
        self._bodies: list[bytes] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    def env(self) -> dict[str, str]:
        """Return the environment that has a stack send its spans here."""
        return ENV | {"PENSTOCK_OTLP_ENDPOINT": f"http://127.0.0.1:{self._port}"}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                self._bodies.append(await reader.readexactly(int(length[1]) if length else 0))
                writer.write(_TAKEN)

    def take(self) -> dict[str, dict[str, Any]]:
        """Return the spans that came since the last time, by trace, and by the first word of their name."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        bodies, self._bodies = self._bodies, []
        found: dict[str, dict[str, Any]] = {}
        for body in bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        found.setdefault(span.trace_id.hex(), {})[span.name.split()[0]] = span
        return found


def moments(call: Call, spans: dict[str, Any]) -> list[int] | None:
    """Return when each stage of a call ended, Unix nanoseconds, after its beginning; None: a span is missing.

    A worker may have the job before the api has heard that it is on disk: then the stage ``claim`` took no time.
    """
    if not {"send", "chat"} <= spans.keys():
        return None
    engine = spans["chat"]
    events = {event.name: event.time_unix_nano for event in engine.events}
    if "first_token" not in events:
        return None
    begun = engine.start_time_unix_nano
    accepted = min(spans["send"].end_time_unix_nano, begun)
    handed = events.get("handed_over", begun)
    return [call.sent_ns, accepted, begun, handed, events["first_token"], call.first_ns]


def by_stage(calls: Sequence[Call], traces: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return each stage's quantiles in milliseconds, and the share of the calls whose trace is whole."""
    known = [ends for one in calls if one.busy and (ends := moments(one, traces.get(one.trace, {})))]
    if not known:
        return {}
    stages = {
        name: quantiles([(ends[n + 1] - ends[n]) / 1e6 for ends in known], 2) for n, name in enumerate(STAGES)
    }
    return stages | {"traced": round(len(known) / sum(one.busy for one in calls), 3)}
