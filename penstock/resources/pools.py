"""Pools and the lanes of their queues, for both clients: ``client.pools``."""

from __future__ import annotations

from collections.abc import Sequence

from penstock._core.flows import Flow
from penstock._core.parts import Call, Driver, Part
from penstock._core.requests import Request, segment, with_json
from penstock.fleet_models import Autoscaling, DeclaredPool, Pool, Purged
from penstock.models import Page

_DECLARED = "/v1/admin/pools"


class Pools(Part[Driver]):
    """Look at the queues; pause, resume and purge them; declare pools that scale from zero.

    Every call raises PenstockError.
    """

    @Call
    def list(self) -> Flow[tuple[Pool, ...]]:
        """Return the pools with the jobs that wait in their lanes.

        Raises:
            NotFoundError: the server is too old for this call.
        """
        return (yield from self._fetch(Request("GET", "/v1/queues"), Page[Pool])).data

    @Call
    def pause(self, pool: str) -> Flow[Pool]:
        """Stop dispatching a pool's jobs, and return the pool. Jobs are accepted and wait; running ones finish.

        Raises:
            NotFoundError: there is no such pool (``pool_not_found``).
            ArgumentError: the name is empty.
        """
        return self._fetch(Request("POST", f"{_path(pool)}/pause"), Pool)

    @Call
    def resume(self, pool: str) -> Flow[Pool]:
        """Dispatch a paused pool's jobs again, and return the pool. Raises as :meth:`pause` does."""
        return self._fetch(Request("POST", f"{_path(pool)}/resume"), Pool)

    @Call
    def unpoison(self, pool: str) -> Flow[Pool]:
        """Take all kinds of requests again, and return the pool.

        A kind is refused (``poisoned_kind``) for some hours after a request of it ended the pool's engine twice. Raises as
        :meth:`pause` does.
        """
        return self._fetch(Request("POST", f"{_path(pool)}/unpoison"), Pool)

    @Call
    def purge(self, pool: str, lane: str) -> Flow[int]:
        """Cancel every job that waits in a lane, and return their number. Running jobs finish.

        If its answer is lost, the request is not repeated: look whether the lane is empty before you do.

        Args:
            pool: its name.
            lane: ``realtime``, ``high``, ``normal``, ``low`` or ``bulk``.

        Raises:
            NotFoundError: there is no such pool (``pool_not_found``).
            BadRequestError: there is no such lane.
            ArgumentError: a name is empty.
        """
        path = _path(pool) + "/" + segment(lane, "the lane's name")
        # The second would cancel the jobs that came since.
        request = Request("DELETE", path, at_most_once=True)
        return (yield from self._fetch(request, Purged)).cancelled

    @Call
    def autoscaling(self, pool: str, *, target: float | None = None) -> Flow[Autoscaling]:
        """Return how much work a pool has, and how many workers it needs. The key needs the scope ``metrics``.

        Args:
            pool: its name; one that was declared need not have a worker.
            target: jobs for each slot; None: the server's choice, 0.8.

        Raises:
            NotFoundError: there is no such pool (``pool_not_found``).
            ArgumentError: the name is empty.
        """
        params = {} if target is None else {"target": str(target)}
        path = "/v1/autoscaling/" + segment(pool, "the pool's name")
        return self._fetch(Request("GET", path, params), Autoscaling)

    @Call
    def declared(self) -> Flow[tuple[DeclaredPool, ...]]:
        """Return the pools that scale from zero. The key needs the scope ``admin``, as for the two calls below."""
        return (yield from self._fetch(Request("GET", _DECLARED), Page[DeclaredPool])).data

    @Call
    def declare(
        self,
        pool: str,
        model: str,
        *,
        aliases: Sequence[str] = (),
        slots: int | None = None,
        device: str | None = None,
        device_memory_gb: float | None = None,
        devices: int = 1,
        force: bool = False,
    ) -> Flow[DeclaredPool]:
        """Have requests for a pool's model queued although no worker of it is alive.

        Args:
            pool: its name; a declaration that is there is replaced.
            model: the name by which requests ask for its model.
            aliases: further names of the model.
            slots: jobs that one worker runs at once; None: as the last one that registered.
            device: name of a worker's device, with ``devices`` of them and ``device_memory_gb`` together.
            force: change the model although jobs or rows of batches wait for the one before, which workers of the new one
                fail; and take names that only pools without a worker and a declaration have.

        Raises:
            ConflictError: a name means another model in another pool (``name_taken``), or jobs or rows of batches wait for
                the model that the pool had (``jobs_waiting``).
            BadRequestError: a value is out of range.
            ArgumentError: the pool's name is empty.
        """
        body: dict[str, object] = {"model": model, "aliases": [*aliases], "slots": slots, "devices": devices}
        body |= {"device": device, "device_memory_gb": device_memory_gb} | ({"force": True} if force else {})
        return self._fetch(with_json("PUT", _declared(pool), body), DeclaredPool)

    @Call
    def undeclare(self, pool: str) -> Flow[DeclaredPool]:
        """Remove a declaration, and return it. Jobs that wait stay.

        Raises:
            NotFoundError: there is none (``pool_not_found``).
            ArgumentError: the name is empty.
        """
        return self._fetch(Request("DELETE", _declared(pool)), DeclaredPool)


def _declared(pool: str) -> str:
    return _DECLARED + "/" + segment(pool, "the pool's name")


def _path(pool: str) -> str:
    return "/v1/queues/" + segment(pool, "the pool's name")
