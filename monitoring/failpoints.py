"""Failpoints: named windows of the code in which a fault test can stop, kill or delay this very process.

Nothing happens, and a call costs one test of a module variable, unless ``PENSTOCK_FAILPOINTS`` was set when the process
started: a list such as ``worker.before_claim=kill@3,api.after_accept=sleep:2``, each item ``window=action@N``. The action
is taken at the Nth time the window is reached (the first where ``@N`` is missing), once.

==============  ====================================================================================================
action          what it does to its own process
==============  ====================================================================================================
``kill``        SIGKILL: nothing is cleaned up
``stop``        SIGSTOP: frozen until somebody sends SIGCONT
``sleep:S``     sleeps S seconds without yielding, so that the thread (and its event loop) is wedged for so long
``raise``       raises :class:`FailpointReachedError`; at ``engine.run`` the simulated engine dies of it
==============  ====================================================================================================

The windows are the keys of :data:`WINDOWS`. They are for fault tests: production never sets the variable.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Final

VARIABLE: Final = "PENSTOCK_FAILPOINTS"

WINDOWS: Final[dict[str, str]] = {
    "worker.before_consume": "the worker has its lease, and does not take messages yet",
    "worker.before_claim": "the message has been popped, the job has not been claimed",
    "worker.after_claim": "the job has been claimed, the engine has not seen it",
    "worker.before_append": "chunks have left the engine and are not in the log",
    "worker.after_append": "chunks are in the log, and the attempt goes on",
    "worker.before_finish": "the engine is done, the record does not know",
    "worker.before_ack": "the record is terminal, Celery does not know",
    "worker.before_release": "a draining worker is about to give a job back",
    "worker.before_beat": "the lease is about to be prolonged, on the engine's loop",
    "engine.run": "the simulated engine has begun a request",
    "reaper.before_round": "between two rounds of a reaper, in whichever process",
    "api.before_accept": "the submission is valid and has not been sent to Redis",
    "api.after_accept": "the job is on disk, its client has not been answered",
    "api.mid_stream": "an OpenAI stream is about to send its next frames",
    "bulk.before_turn": "the coordinator is about to do a batch's next step",
    "bulk.after_plan": "a batch's plan is in storage, its record does not know",
    "bulk.after_files": "a batch's output files are in storage and recorded, the batch is not finished",
    "bulk.before_part": "rows of a chunk are finished, a part of them is about to be written",
    "bulk.after_part": "a group's parts are in storage, the batch's record does not count them",
    "bulk.before_end": "every row of a chunk is committed, the chunk is not done",
    "coordinator.before_answer": "a verification or a retry is done, its answer is not written",
    "coordinator.before_child": "the failed rows of a batch are in a file, the batch of them is not created",
    "api.mid_events": "a job's event stream is about to send its next events",
}
"""Every window, and what is true in it."""

_TAKES_EFFECT_S = 0.2
"""Another thread of the process may be the one that meets the signal; this one goes nowhere until it has."""

_ACTIONS = ("kill", "stop", "sleep", "raise")


class FailpointReachedError(RuntimeError):
    """What the action ``raise`` raises."""


class FailpointsStartError(ValueError):
    """``PENSTOCK_FAILPOINTS`` cannot be read. The message says which part of it, and what there is."""


@dataclass(slots=True)
class _Point:
    action: str
    seconds: float
    left: int


_armed: dict[str, _Point] | None = None


def arm_from_environment() -> None:
    """Arm what ``PENSTOCK_FAILPOINTS`` names. Called once, at the process root.

    Raises:
        FailpointsStartError: the variable names an unknown window or action.
    """
    global _armed  # noqa: PLW0603 - one process, one set of failpoints; None is what keeps `hit` free of cost
    text = os.environ.get(VARIABLE, "").strip()
    _armed = parse(text) if text else None


def parse(text: str) -> dict[str, _Point]:
    """Read a list of failpoints.

    Raises:
        FailpointsStartError: it names an unknown window or action, or a window twice.
    """
    points: dict[str, _Point] = {}
    for item in text.split(","):
        window, equals, told = item.strip().partition("=")
        action, at, count = told.partition("@")
        name, colon, seconds = action.partition(":")
        if window not in WINDOWS:
            raise _unreadable(item, f"no such window; there are {', '.join(WINDOWS)}")
        if not equals or name not in _ACTIONS or bool(colon) != (name == "sleep"):
            raise _unreadable(item, "an action is kill, stop, sleep:SECONDS or raise")
        if window in points:
            raise _unreadable(item, "this window was named before")
        try:
            points[window] = _Point(name, float(seconds or 0), int(count) if at else 1)
        except ValueError:
            raise _unreadable(item, "SECONDS and N in sleep:SECONDS@N are numbers") from None
    return points


def _unreadable(item: str, why: str) -> FailpointsStartError:
    return FailpointsStartError(f"{VARIABLE}: cannot read {item.strip()!r}: {why}")


def hit(window: str) -> None:
    """Say that a window has been reached, and suffer what was asked for.

    Raises:
        FailpointReachedError: the action is ``raise``.
        KeyError: failpoints are armed, and there is no such window.
    """
    if _armed is None:
        return
    _suffer(window, WINDOWS[window])


def _suffer(window: str, meaning: str) -> None:
    point = _armed.get(window) if _armed else None
    if point is None or point.left == 0:
        return
    point.left -= 1
    if point.left:
        return
    told = f"failpoint {window}: {point.action} at {time.time():.3f} ({meaning})"
    print(told, file=sys.stderr, flush=True)  # noqa: T201 - a log's buffer would not survive what follows
    if point.action == "sleep":
        time.sleep(point.seconds)
    elif point.action == "raise":
        raise FailpointReachedError(f"failpoint {window}: {meaning}")
    else:
        os.kill(os.getpid(), signal.SIGKILL if point.action == "kill" else signal.SIGSTOP)
        time.sleep(_TAKES_EFFECT_S)
