"""New versions of models, and their aliases, for both clients: ``client.rollouts`` and ``client.aliases``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from penstock._core.flows import Flow
from penstock._core.parts import Call, Driver, Part
from penstock._core.requests import Request, segment, with_json
from penstock.models import Page
from penstock.rollout_models import Alias, Rollout

_ROLLOUTS = "/v1/admin/rollouts"
_ALIASES = "/v1/admin/aliases"


class Rollouts(Part[Driver]):
    """Start new versions of models without downtime. The key needs the scope ``admin``. Every call raises PenstockError."""

    @Call
    def list(self) -> Flow[tuple[Rollout, ...]]:
        """Return the pools whose model got another version."""
        return (yield from self._fetch(Request("GET", _ROLLOUTS), Page[Rollout])).data

    @Call
    def get(self, pool: str) -> Flow[Rollout]:
        """Return a pool's versions, and where its rollout is.

        Raises:
            NotFoundError: there is no such pool (``pool_not_found``).
            ArgumentError: the name is empty.
        """
        return self._fetch(Request("GET", _path(pool)), Rollout)

    @Call
    def start(
        self, pool: str, model: str | None = None, *, engine_args: Sequence[str] = (), mode: str = "surge"
    ) -> Flow[Rollout]:
        """Begin with a new version of a pool's model, and return at once; :meth:`get` says when it is ``done``.

        Args:
            pool: its name.
            model: hub name or path; None: the same model, with other flags.
            engine_args: flags for the engine after those of the pool's settings.
            mode: ``surge``: new workers start beside the old ones; ``no_surge``: after them; ``in_place``: running workers
                load the new weights.

        Raises:
            NotFoundError: there is no such pool.
            ConflictError: a rollout is under way, or it is refused (``rollout_refused``); the message says what to do.
            ArgumentError: the name is empty.
        """
        body = {"model": model, "engine_args": [*engine_args], "mode": mode}
        return self._fetch(_once(_path(pool), body), Rollout)

    @Call
    def back(self, pool: str, *, mode: str | None = None) -> Flow[Rollout]:
        """Return to the version before, the same way. Raises as :meth:`start` does."""
        body = {} if mode is None else {"mode": mode}
        return self._fetch(_once(_path(pool) + "/back", body), Rollout)

    @Call
    def abort(self, pool: str) -> Flow[Rollout]:
        """Stop a rollout before its new version serves. Raises as :meth:`start` does."""
        return self._fetch(Request("POST", _path(pool) + "/abort", at_most_once=True), Rollout)

    @Call
    def switch(self, pool: str, to: str, *, drain: bool = True) -> Flow[Rollout]:
        """Have another pool, whose workers run already, serve in place of this one. Raises as :meth:`start` does.

        Args:
            pool: by its first version's name.
            to: the pool that serves from now on.
            drain: drain the workers of the version before.
        """
        body = {"to": to, "drain": drain}
        return self._fetch(_once(_path(pool) + "/switch", body), Rollout)


class Aliases(Part[Driver]):
    """Further names of models, as data. The key needs the scope ``admin``. Every call raises PenstockError."""

    @Call
    def list(self) -> Flow[tuple[Alias, ...]]:
        """Return the aliases that were set. Those of workers' settings are among the models."""
        return (yield from self._fetch(Request("GET", _ALIASES), Page[Alias])).data

    @Call
    def set(self, name: str, model: str) -> Flow[Alias]:
        """Have a name mean a model from now on, in all processes within two seconds.

        Raises:
            NotFoundError: there is no such model.
            ConflictError: the name is a model's own.
            ArgumentError: the name is empty.
        """
        return self._fetch(with_json("PUT", _alias(name), {"model": model}), Alias)

    @Call
    def remove(self, name: str) -> Flow[Alias]:
        """Remove an alias that was set here, and return it.

        Raises:
            NotFoundError: there is none (``alias_not_found``).
            ArgumentError: the name is empty.
        """
        return self._fetch(Request("DELETE", _alias(name)), Alias)


def _once(path: str, body: Mapping[str, object]) -> Request:
    # A repeated one would meet what the first began.
    return replace(with_json("POST", path, body), at_most_once=True)


def _path(pool: str) -> str:
    return f"{_ROLLOUTS}/{segment(pool, 'the pool')}"


def _alias(name: str) -> str:
    return f"{_ALIASES}/{segment(name, 'the alias')}"
