"""Workers, for both clients: ``client.workers``."""

from __future__ import annotations

from dataclasses import replace

from penstock._core.flows import Flow
from penstock._core.parts import Call, Driver, Part
from penstock._core.requests import Request, given, segment, with_json
from penstock.errors import ArgumentError
from penstock.fleet_models import Worker
from penstock.models import Page


class Workers(Part[Driver]):
    """List the workers and drain them. Every call raises PenstockError."""

    @Call
    def list(self) -> Flow[tuple[Worker, ...]]:
        """Return the workers that are alive."""
        return (yield from self._fetch(Request("GET", "/v1/workers"), Page[Worker])).data

    @Call
    def drain(self, name: str, timeout_s: float | None = None) -> Flow[tuple[Worker, ...]]:
        """Drain a worker: it finishes its jobs, gives back the rest, and ends. Returns at once, with the workers asked.

        If its answer is lost, the request is not repeated: the worker may drain already.

        Args:
            name: a worker's name, which means all of this name, or an incarnation's id.
            timeout_s: seconds that running jobs may take, 0 for none; None is the worker's own
                ``drain_timeout_s``.

        Raises:
            NotFoundError: no live worker has this name (``worker_not_found``).
            ArgumentError: the name is empty or the time below 0.
        """
        path = "/v1/workers/" + segment(name, "the worker's name") + "/drain"
        if timeout_s is not None and not 0 <= timeout_s < float("inf"):
            raise ArgumentError("timeout_s must be a number of seconds, 0 or more")
        request = with_json("POST", path, given(timeout_s=timeout_s))
        # The second would drain what was started since under the same name.
        request = replace(request, at_most_once=True)
        return (yield from self._fetch(request, Page[Worker])).data
