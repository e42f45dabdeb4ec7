"""The wire models of rollouts and aliases. Times are Unix seconds."""

from __future__ import annotations

from penstock.models import Wire

UNDER_WAY = frozenset({"starting", "moving"})


class Version(Wire):
    """A version of a pool's model.

    Attributes:
        pool: the pool of its workers; jobs that it ran have it as their ``pool``.
        model: hub name or path; None: as the settings of the pool say.
        engine_args: flags for the engine after those of the settings.
    """

    pool: str
    model: str | None = None
    engine_args: tuple[str, ...] = ()


class Rollout(Wire):
    """A pool's versions, and its rollout.

    Attributes:
        id: the pool, by its first version's name.
        state: ``starting``: the new version's workers start; ``moving``: it serves, and the old one ends; ``done``,
            ``failed`` or ``aborted``.
        mode: ``surge``, ``no_surge`` or ``in_place``.
        current: the version that serves; ``previous``: the one before it; ``target``: the one that is being started.
        message: what the rollout waits for, or why it failed.
        left: jobs that still wait or run in the version before.
        keeper: the process that carries it out; None: no ``penstock up`` runs this pool's workers.
    """

    id: str
    state: str
    mode: str = "surge"
    current: Version
    previous: Version | None = None
    target: Version | None = None
    message: str | None = None
    changed_at: float | None = None
    left: int = 0
    keeper: str | None = None

    @property
    def under_way(self) -> bool:
        """Whether it has not ended."""
        return self.state in UNDER_WAY


class Alias(Wire):
    """A further name of a model: ``id`` is the name."""

    id: str
    model: str
