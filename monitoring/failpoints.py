"""Failpoints: named windows in the code at which a fault test kills, stops or delays the process.

``PENSTOCK_FAILPOINTS``, read when the process starts, arms them: a list such as
``worker.claimed=kill@3,api.after_accept=sleep:2``, each item ``window=action@N``. The action happens once, at the Nth
time the window is reached (``@1`` by default); with ``@N+`` also at each later time. Without the variable a call costs one
test of a module variable.

==============  ====================================================================================================
action          what it does to its own process
==============  ====================================================================================================
``kill``        SIGKILL: nothing is cleaned up
``stop``        SIGSTOP: frozen until it gets a SIGCONT
``sleep:S``     sleeps S seconds without yielding, which blocks the thread and its event loop
``wedge``       keeps the interpreter's lock for ever: no other thread runs, and no signal handler
``raise``       raises :class:`FailpointReachedError`, which kills the simulated engine at ``engine.run``
==============  ====================================================================================================

The windows are the keys of :data:`WINDOWS`. They are for fault tests. Never set the variable in production.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from typing import Final

VARIABLE: Final = "PENSTOCK_FAILPOINTS"

WINDOWS: Final[dict[str, str]] = {
    "worker.before_consume": "the worker has its lease, but does not claim yet",
    "worker.claimed": "Redis has answered a claim, but Celery has not got the job's message",
    "worker.after_claim": "the job is at its worker's runner, but the engine has not got it",
    "worker.before_append": "chunks have left the engine, but are not in the log",
    "worker.after_append": "chunks are in the log, and the attempt continues",
    "worker.before_finish": "the engine is done, but the record is not updated",
    "worker.before_ack": "the record is terminal, but Celery has no acknowledgement",
    "worker.before_release": "a draining worker is about to release a job",
    "worker.before_beat": "the lease is about to be prolonged, on the engine's event loop",
    "swap.granted": "a member of a swap group has the devices, but its engine has not loaded",
    "swap.freed": "a member's engine sleeps, but its grant is not given back",
    "engine.run": "the simulated engine has started a request",
    "reaper.before_round": "between two rounds of a reaper, in any process",
    "api.before_accept": "the submission is valid, but not sent to Redis",
    "api.after_accept": "the job is on disk, but its client is not answered",
    "api.mid_stream": "an OpenAI stream is about to send its next frames",
    "bulk.before_turn": "the coordinator is about to take a batch's next step",
    "bulk.before_plan": "a batch's input is checked, but its plan is not in storage",
    "bulk.after_plan": "a batch's plan is in storage, but not in its record",
    "bulk.after_files": "a batch's output files are in storage and recorded, but the batch is not finished",
    "bulk.after_row": "the engine has answered a row, but its line is not made",
    "bulk.before_part": "rows of a chunk are finished, and a part with them is about to be written",
    "bulk.after_part": "a part is in storage, but the batch's record does not count its rows",
    "bulk.before_end": "every row of a chunk is committed, but the chunk is not done",
    "coordinator.before_answer": "a verification or a retry is done, but its answer is not written",
    "webhook.before_send": "an event is read from an outbox, but not sent",
    "webhook.after_send": "a receiver has answered, but the event is still in the outbox",
    "coordinator.before_child": "the failed rows of a batch are in a file, but the new batch is not created",
    "api.mid_events": "a job's event stream is about to send its next events",
}
"""Every window, and what is true at it."""

_TAKES_EFFECT_S = 0.2
"""Another thread may receive the signal; this one waits here until it has."""

_ACTIONS = ("kill", "stop", "sleep", "wedge", "raise")


class FailpointReachedError(RuntimeError):
    """Raised by the action ``raise``."""


class FailpointsStartError(ValueError):
    """``PENSTOCK_FAILPOINTS`` cannot be read. The message names the item, and the choices."""


@dataclass(slots=True)
class _Point:
    action: str
    seconds: float
    left: int
    again: bool


_armed: dict[str, _Point] | None = None


def arm_from_environment() -> None:
    """Arm the failpoints in ``PENSTOCK_FAILPOINTS``. Called once, at the start of a process.

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
        window, equals, rest = item.strip().partition("=")
        action, at, count = rest.partition("@")
        name, colon, seconds = action.partition(":")
        if window not in WINDOWS:
            raise _unreadable(item, f"unknown window; choose one of {', '.join(WINDOWS)}")
        if not equals or name not in _ACTIONS or bool(colon) != (name == "sleep"):
            raise _unreadable(item, "the action must be kill, stop, sleep:SECONDS, wedge or raise")
        if window in points:
            raise _unreadable(item, "the window is named twice")
        try:
            number = int(count.removesuffix("+")) if at else 1
            points[window] = _Point(name, float(seconds or 0), number, again=count.endswith("+"))
        except ValueError:
            raise _unreadable(item, "SECONDS and N in sleep:SECONDS@N must be numbers") from None
    return points


def _unreadable(item: str, why: str) -> FailpointsStartError:
    return FailpointsStartError(f"{VARIABLE}: cannot read {item.strip()!r}: {why}")


def hit(window: str) -> None:
    """Report that a window is reached; perform its action if it is armed.

    Raises:
        FailpointReachedError: the action is ``raise``.
        KeyError: failpoints are armed, and the window is unknown.
    """
    if _armed is None:
        return
    _act(window, WINDOWS[window])


def _act(window: str, meaning: str) -> None:
    point = _armed.get(window) if _armed else None
    if point is None or point.left == 0:
        return
    point.left -= 1
    if point.left:
        return
    point.left = int(point.again)
    line = f"failpoint {window}: {point.action} at {time.time():.3f} ({meaning})"
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - a log's buffer would not survive the action
    if point.action == "sleep":
        time.sleep(point.seconds)
    elif point.action == "wedge":
        re.match("(a|a)*$", "a" * 64 + "b")
    elif point.action == "raise":
        raise FailpointReachedError(f"failpoint {window}: {meaning}")
    else:
        os.kill(os.getpid(), signal.SIGKILL if point.action == "kill" else signal.SIGSTOP)
        time.sleep(_TAKES_EFFECT_S)
