"""Which of Redis's errors time will mend, and which it will not: *Redis is away or full*, and *our command is wrong*."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from redis.exceptions import (
    ClusterDownError,
    InvalidResponse,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from broker.db.errors import StoreError, StoreFaultError, StoreUnavailableError

log = structlog.get_logger(__name__)

LOG_GAP_S = 10.0
"""Least time between two log lines of one command: a loop of ours may repeat it. The metric counts every one."""

_AWAY = (
    *(RedisConnectionError, RedisTimeoutError, InvalidResponse, OSError),  # no answer, or half of one
    *(
        ReadOnlyError,
        ClusterDownError,
    ),  # a replica, or a master that was demoted (MASTERDOWN is a ClusterDownError)
    *(OutOfMemoryError, NoScriptError, TryAgainError),  # it is full, or has just restarted
)

_AWAY_CODES = frozenset(
    {
        *("BUSY", "LOADING"),  # another's function runs, or it reads its file
        *("NOREPLICAS", "MISCONF", "UNBLOCKED"),  # it must not write now, or is no longer the master
    }
)
"""The first words of those refusals for which redis-py has no class."""

NO_FUNCTION = "Function not found"
"""Redis's words for a call of a library that it does not have: it is new, was emptied, or dropped a version."""


def is_fault(error: Exception) -> bool:
    """Return whether an error comes from the command or the data, so that the same call fails again.

    Such are a Lua error, WRONGTYPE, an unknown command, NOPERM, an argument that redis-py cannot send, and every exception
    that is not Redis's.
    """
    if isinstance(error, _AWAY):
        return False
    if isinstance(error, ResponseError):
        reply = str(error).rpartition("caused error: ")[2]  # redis-py puts a pipeline's command before it
        return reply.partition(" ")[0] not in _AWAY_CODES and not reply.endswith(NO_FUNCTION)
    return True


class Faults:
    """Translates errors, and reports the faults among them: each is counted, and logged with its command. Thread-safe.

    Args:
        count: called for each fault.
    """

    def __init__(self, count: Callable[[], None] = lambda: None) -> None:
        self.count = count
        self._logged_at: dict[str, float] = {}

    def translate(self, error: Exception, command: str) -> StoreError:
        """Return our error for an exception that a command of Redis raised, and report it if it is a fault.

        Args:
            error: of redis-py or the socket.
            command: the function or the method, for the message.
        """
        if not is_fault(error):
            return StoreUnavailableError(f"{command}: {error}")
        ours = StoreFaultError(command, f"{type(error).__name__}: {error}")
        self.count()
        now = time.monotonic()
        if now - self._logged_at.get(command, float("-inf")) >= LOG_GAP_S:
            self._logged_at[command] = now
            ours_not_redis = not isinstance(error, RedisError)
            log.error("store_fault", command=command, error=str(ours), exc_info=ours_not_redis and error)
        return ours

    def __json__(self) -> list[str]:
        """Return the commands that were refused. It is a transport option too, which ``inspect stats`` writes as JSON."""
        return sorted(self._logged_at)
