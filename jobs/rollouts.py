"""New versions of a pool's model: the record of a rollout, and how it changes. Pure.

A version is a pool of its own, with workers of its own: ``chat`` is the first of the pool ``chat``, ``chat-v2`` the next.
All serve the same names. Jobs of the pool go to the version that serves; the others forward to it
(``broker/lua/2_forward.lua``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final


class Mode(StrEnum):
    """How the workers of a new version take over.

    ``surge``: they start beside the old ones. ``no_surge``: the old ones end first, and calls wait in the queue.
    ``in_place``: running workers load other weights of the same shapes, one after another.
    """

    SURGE = "surge"
    NO_SURGE = "no_surge"
    IN_PLACE = "in_place"


class RolloutState(StrEnum):
    """Where a rollout is.

    ``starting``: the new version's workers start, and the old version serves. ``moving``: the new version serves, and
    the old one ends. The others are ends: ``failed`` and ``aborted`` leave the old version.
    """

    STARTING = "starting"
    MOVING = "moving"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"


UNDER_WAY: Final = frozenset({RolloutState.STARTING, RolloutState.MOVING})

MOST_NAME: Final = 64
_VERSION: Final = re.compile(r"(?P<base>.+)-v(?P<number>[1-9][0-9]{0,5})")

ENGINE_FLAGS: Final = frozenset(
    {
        *("--dtype", "--quantization", "--kv-cache-dtype", "--load-format", "--revision", "--seed"),
        *("--max-model-len", "--max-num-seqs", "--max-num-batched-tokens", "--gpu-memory-utilization"),
        *("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size"),
        *("--enforce-eager", "--enable-prefix-caching", "--no-enable-prefix-caching", "--block-size"),
        *("--reasoning-parser", "--tool-call-parser", "--enable-auto-tool-choice", "--generation-config"),
        *("--speculative-config", "--limit-mm-per-prompt", "--max-logprobs"),
    }
)
"""Flags of vLLM that a rollout may give. It comes over the network, so none may name code, a plugin or a file of the
worker's machine; such a flag belongs into ``engine_args`` of the pool."""


class RolloutError(Exception):
    """A rollout cannot do this. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a pool's model.

    Attributes:
        pool: the pool that serves it.
        model: hub name or path; None: as the settings of the pool say.
        engine_args: flags for vLLM after those of the settings.
    """

    pool: str
    model: str | None = None
    engine_args: tuple[str, ...] = ()

    def written(self) -> dict[str, Any]:
        """Return it JSON-able."""
        return {"pool": self.pool, "model": self.model, "engine_args": list(self.engine_args)}

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Version:
        """Return what :meth:`written` wrote."""
        return cls(said["pool"], said.get("model"), tuple(said.get("engine_args", ())))


@dataclass(frozen=True, slots=True)
class Rollout:
    """A pool's versions, and its rollout.

    Attributes:
        pool: the first version's.
        step: counts the changes of the record; 0: there is none.
        number: of the newest version.
        current: the version that serves.
        previous: the one before it, for the way back; None: there is none.
        target: the version that is being started.
        message: what went wrong, or what the rollout waits for.
        since_ms: when the state began, Unix milliseconds; None: it never changed.
    """

    pool: str
    current: Version
    step: int = 0
    state: RolloutState = RolloutState.DONE
    mode: Mode = Mode.SURGE
    number: int = 1
    previous: Version | None = None
    target: Version | None = None
    message: str | None = None
    since_ms: int | None = None

    @classmethod
    def fresh(cls, pool: str) -> Rollout:
        """Return the record of a pool that has none: it is its only version."""
        return cls(pool, Version(pool))

    @property
    def under_way(self) -> bool:
        """Whether it has not ended."""
        return self.state in UNDER_WAY

    def start(
        self, model: str | None, engine_args: Sequence[str], mode: Mode, taken: Collection[str] = ()
    ) -> Rollout:
        """Begin with a new version. ``taken``: names that its pool cannot have, as others have them.

        Raises:
            RolloutError: one is under way; the flags or the name are refused.
        """
        self._check_free()
        check_flags(engine_args)
        if mode is Mode.IN_PLACE and (engine_args or model is None):
            raise RolloutError("--in-place loads other weights: it takes a model, and no flag of the engine")
        if model is None and not engine_args:
            raise RolloutError("the new version is like the old one: name a model or a flag of the engine")
        number = self.number + 1
        while f"{self.pool}-v{number}" in taken:
            number += 1
        pool = self.current.pool if mode is Mode.IN_PLACE else f"{self.pool}-v{number}"
        if len(pool) > MOST_NAME:
            raise RolloutError(f"the pool's name is too long for {pool!r}: {MOST_NAME} characters at most")
        args = tuple(engine_args) or self.current.engine_args if model is None else tuple(engine_args)
        return self._begin(Version(pool, model or self.current.model, args), mode, number)

    def back(self, mode: Mode | None = None) -> Rollout:
        """Begin the way back to the version before, also while that ends. ``mode``: None: that of the last rollout.

        Raises:
            RolloutError: a new version starts, or there is no version before.
        """
        if self.state is RolloutState.STARTING:
            self._check_free()
        if self.previous is None:
            raise RolloutError(f"the pool {self.pool!r} has no version before {self.current.pool!r}")
        in_place = self.previous.pool == self.current.pool
        mode = Mode.IN_PLACE if in_place else (mode or self.mode)
        if mode is Mode.IN_PLACE and not in_place:
            mode = Mode.SURGE
        return self._begin(self.previous, mode, self.number)

    def switch(self, to: str) -> Rollout:
        """Return the record once another pool, whose workers somebody else runs, serves in place of the current one.

        Raises:
            RolloutError: one is under way, or that pool serves already.
        """
        self._check_free()
        if to == self.current.pool:
            raise RolloutError(f"the pool {to!r} is the version that serves now")
        return replace(
            self,
            state=RolloutState.DONE,
            mode=Mode.SURGE,
            previous=self.current,
            current=Version(to),
            message=None,
        )

    def flipped(self) -> Rollout:
        """Return the record once the new version serves."""
        assert self.target is not None  # noqa: S101 - it is starting
        return replace(
            self,
            state=RolloutState.MOVING,
            previous=self.current,
            current=self.target,
            target=None,
            message=None,
        )

    def ended(self, state: RolloutState, message: str | None = None) -> Rollout:
        """Return the record of a rollout that has ended."""
        return replace(self, state=state, target=None, message=message)

    def aborted(self) -> Rollout:
        """Return the record of a rollout that an operator has stopped.

        Raises:
            RolloutError: the new version serves already, or nothing is under way.
        """
        if self.state is RolloutState.MOVING:
            raise RolloutError("the new version serves already; `rollout back` returns to the one before")
        if self.state is not RolloutState.STARTING:
            raise RolloutError(f"no rollout of the pool {self.pool!r} is under way")
        return self.ended(RolloutState.ABORTED)

    def _begin(self, target: Version, mode: Mode, number: int) -> Rollout:
        return replace(
            self, state=RolloutState.STARTING, mode=mode, number=number, target=target, message=None
        )

    def _check_free(self) -> None:
        if self.under_way:
            raise RolloutError(
                f"a rollout of the pool {self.pool!r} is under way ({self.state}); wait for its end, or abort it"
            )


def base_of(pool: str) -> tuple[str, str | None]:
    """Return the pool whose version this name is by its form, and the version: ``chat-v2`` is ``chat`` and ``v2``."""
    found = _VERSION.fullmatch(pool)
    return (pool, None) if found is None else (found["base"], f"v{found['number']}")


def check_flags(flags: Sequence[str]) -> None:
    """Refuse flags that a rollout may not give.

    Raises:
        RolloutError: naming the flag.
    """
    for one in flags:
        name = one.partition("=")[0]
        if name.startswith("--") and name.replace("_", "-") not in ENGINE_FLAGS:
            raise RolloutError(
                f"a rollout may not set {name}; it takes {', '.join(sorted(ENGINE_FLAGS))}. "
                "Other flags belong into engine_args of the pool"
            )
        if not name.startswith("--"):
            raise RolloutError(f"{one[:80]!r} is no flag: write --name=value, or --name")


def check_successor(
    old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]], *, smaller: bool = False
) -> None:
    """Refuse a version that cannot run the jobs of the one before it.

    Args:
        old: facts of its models by name, as workers register them.
        new: the same of the new version.
        smaller: a shorter context is meant.

    Raises:
        RolloutError: it lacks a model, an endpoint or a part of the context.
    """
    for name, facts in old.items():
        if facts.get("adapter"):  # the new version has got it, and loads it when it is asked for
            continue
        its = new.get(name)
        if its is None:
            raise RolloutError(
                f"the new version does not serve {name!r}; it serves {', '.join(sorted(new)) or 'nothing'}"
            )
        missing = sorted(
            set(facts.get("endpoints") or ()) - set(its.get("endpoints") or facts.get("endpoints") or ())
        )
        if missing:
            raise RolloutError(f"the new version of {name!r} does not do {', '.join(missing)}")
        before, now = facts.get("max_model_len"), its.get("max_model_len")
        if not smaller and before and now and now < before:
            raise RolloutError(
                f"the context of the new version of {name!r} is shorter ({now} tokens, {before} before), so jobs that wait "
                "may not fit: give it --engine-arg=--max-model-len, if the model allows that"
            )
