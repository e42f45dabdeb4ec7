"""New versions of models: start, look, return, abort, switch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Path, Request, Response

from api.access.identity import actor_of
from api.admin.rollout_schema import (
    BackRequest,
    RolloutList,
    RolloutObject,
    RolloutRequest,
    SwitchRequest,
    rollout_view,
)
from api.http.asgi import json_response
from api.http.body import control_body
from api.http.errors import ApiError
from api.http.openapi import answers, body_docs
from api.middleware.trace import asked_by
from api.services import Services
from jobs.access import Actor
from jobs.names import NAME
from jobs.rollouts import Mode, Rollout, RolloutError, RolloutState, check_successor

log = structlog.get_logger(__name__)

_TRIES = 5
_ROOT = "/v1/admin/rollouts"
Pool = Annotated[str, Path(pattern=NAME, description="The pool, by its first version's name.")]


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    acts = _Acts(services)
    rollouts = services.rollouts

    @router.get(
        _ROOT, operation_id="listRollouts", summary="List rollouts", responses=answers(RolloutList, 503)
    )
    async def list_rollouts() -> Response:
        """Every pool whose model got another version, by name."""
        found = [await acts.view(one) for one in await rollouts.all()]
        return json_response({"object": "list", "data": found})

    @router.get(
        f"{_ROOT}/{{pool}}",
        operation_id="getRollout",
        summary="Get a rollout",
        responses=answers(RolloutObject, 404, 503),
    )
    async def get_rollout(pool: Pool) -> Response:
        """The versions of a pool, and where its rollout is."""
        return await acts.shown(await acts.known(pool))

    @router.post(
        f"{_ROOT}/{{pool}}",
        operation_id="startRollout",
        summary="Start a rollout",
        status_code=202,
        responses=answers(RolloutObject, 400, 404, 409, 413, 503, status=202),
        openapi_extra=body_docs(RolloutRequest, {"model": "Qwen/Qwen3-8B", "mode": "surge"}),
    )
    async def start_rollout(
        pool: Pool, body: Annotated[RolloutRequest, control_body(RolloutRequest)], request: Request
    ) -> Response:
        """Another version of the pool's model. `penstock up`, which runs the pool's workers, starts those of the new
        version, has jobs go to it once it is ready, and ends the old ones. The answer comes at once; look at the
        rollout for its end.
        """
        await acts.check_keeper(pool)
        taken = await rollouts.pools()
        return await acts.change(
            pool,
            lambda old: old.start(body.model, body.engine_args, Mode(body.mode), taken),
            "start",
            request,
            hold=True,
            status=202,
        )

    @router.post(
        f"{_ROOT}/{{pool}}/back",
        operation_id="rollBackRollout",
        summary="Return to the version before",
        status_code=202,
        responses=answers(RolloutObject, 400, 404, 409, 413, 503, status=202),
        openapi_extra=body_docs(BackRequest, {}, required=False),
    )
    async def roll_back(
        pool: Pool,
        request: Request,
        body: Annotated[BackRequest | None, control_body(BackRequest, optional=True)],
    ) -> Response:
        """The same as a rollout, to the version that served before. Twice: to the newer one again."""
        await acts.check_keeper(pool)
        mode = None if body is None or body.mode is None else Mode(body.mode)
        return await acts.change(pool, lambda old: old.back(mode), "back", request, hold=True, status=202)

    @router.post(
        f"{_ROOT}/{{pool}}/abort",
        operation_id="abortRollout",
        summary="Abort a rollout",
        responses=answers(RolloutObject, 400, 404, 409, 503),
    )
    async def abort_rollout(pool: Pool, request: Request) -> Response:
        """Before the new version serves: its workers end, and the old version serves on."""
        return await acts.change(pool, Rollout.aborted, "abort", request)

    @router.post(
        f"{_ROOT}/{{pool}}/switch",
        operation_id="switchPool",
        summary="Have another pool serve",
        responses=answers(RolloutObject, 400, 404, 409, 413, 503),
        openapi_extra=body_docs(SwitchRequest, {"to": "chat-v2"}),
    )
    async def switch_pool(
        pool: Pool, body: Annotated[SwitchRequest, control_body(SwitchRequest)], request: Request
    ) -> Response:
        """For workers that `penstock up` does not run. Those of the pool `to` must be ready, and serve the same models.
        Jobs go to it from now on, those that wait are moved, and the workers of the version before drain. A call with
        the former pool returns to it, once workers of it run again. A pool whose workers `penstock up` runs is refused.
        """
        old = await acts.known(pool)
        await acts.check_unkept(pool, body.to)
        await acts.check_ready(old, body.to)
        answer = await acts.change(pool, lambda one: one.switch(body.to), "switch", request, flip=True)
        if body.drain:
            await acts.drain(old.current.pool, request)
        return answer


class _Acts:
    """What the routes have in common."""

    def __init__(self, services: Services) -> None:
        self._services, self._rollouts = services, services.rollouts

    async def view(self, one: Rollout) -> dict[str, Any]:
        left = 0 if one.previous is None else await self._rollouts.left(one.previous.pool)
        keeper = await self._rollouts.keeper(one.pool)
        return rollout_view(one, left, keeper)

    async def shown(self, one: Rollout, status: int = 200) -> Response:
        return json_response(await self.view(one), status)

    async def known(self, pool: str) -> Rollout:
        """Return a pool's record; one that has none yet must exist.

        Raises:
            ApiError: 404 ``pool_not_found``.
        """
        found = await self._rollouts.get(pool)
        if found.step == 0:
            await self._services.catalogue.refresh()
            if pool not in self._services.catalogue.pools:
                names = ", ".join(self._services.catalogue.pools)
                raise ApiError(
                    404,
                    f"the pool {pool!r} does not exist; the pools are: {names}",
                    "pool_not_found",
                    param="pool",
                )
        return found

    async def check_keeper(self, pool: str) -> None:
        """Refuse a pool whose workers no `penstock up` runs: nobody would start those of the new version.

        Raises:
            ApiError: 404, or 409 ``rollout_refused``.
        """
        await self.known(pool)
        if await self._rollouts.keeper(pool) is None:
            raise _refused(
                f"no `penstock up` runs the workers of the pool {pool!r}: start those of the new version with "
                "--pool-version and the same served name, and have it serve with `penstock rollout switch`"
            )

    async def check_unkept(self, pool: str, to: str) -> None:
        """Refuse to have another pool serve while a `penstock up` runs this one's workers. It would start its own as that
        version, with the weights that its settings name. The way back to its own pool is open.

        Raises:
            ApiError: 409 ``rollout_refused``.
        """
        keeper = await self._rollouts.keeper(pool)
        if keeper is not None and to != pool:
            raise _refused(
                f"`penstock up` ({keeper}) runs the workers of the pool {pool!r}: start its new version with "
                "`penstock rollout start`, or stop that `penstock up` first"
            )

    async def check_ready(self, old: Rollout, to: str) -> None:
        """Refuse a pool that cannot take the place of another.

        Raises:
            ApiError: 409 ``rollout_refused``.
        """
        if not any(one.get("state", "ready") == "ready" for one in await self._rollouts.live(to)):
            raise _refused(f"no worker of the pool {to!r} is ready; start its workers first")
        try:
            check_successor(await self._rollouts.facts(old.current.pool), await self._rollouts.facts(to))
        except RolloutError as error:
            raise _refused(str(error)) from error

    async def change(
        self,
        pool: str,
        new: Callable[[Rollout], Rollout],
        what: str,
        request: Request,
        *,
        hold: bool = False,
        flip: bool = False,
        status: int = 200,
    ) -> Response:
        """Change a record, whoever else changes it meanwhile.

        Raises:
            ApiError: 404; 409 ``rollout_refused``.
        """
        by: Actor = actor_of(request.scope)
        for _ in range(_TRIES):
            old = await self.known(pool)
            try:
                wanted = new(old)
            except RolloutError as error:
                raise _refused(str(error)) from error
            held = old.current.pool if hold and wanted.mode is Mode.NO_SURGE else None
            aborted = wanted.state is RolloutState.ABORTED and await self._rollouts.keeper(pool) is None
            unheld = old.current.pool if aborted else None  # else once the old workers are back
            written = await self._rollouts.write(
                old, wanted, flip=flip, held=held, unheld=unheld, what=what, by=by
            )
            if written is not None:
                log.info(
                    "rollout_asked",
                    pool=pool,
                    act=what,
                    mode=wanted.mode.value,
                    tenant=asked_by(request.scope),
                )
                return await self.shown(written, status)
        raise _refused(f"the rollout of the pool {pool!r} changes right now; look at it, and try again")

    async def drain(self, pool: str, request: Request) -> None:
        """Have a pool's workers drain."""
        for one in await self._rollouts.live(pool):
            await self._services.store.drain(one["incarnation"], by=actor_of(request.scope))


def _refused(message: str) -> ApiError:
    return ApiError(409, message, "rollout_refused")
