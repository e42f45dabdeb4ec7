"""Which refusals of Redis pass, and which come back at every try."""

from __future__ import annotations

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, InvalidResponse
from redis.exceptions import TimeoutError as RedisTimeoutError

from broker.db.errors import StoreFaultError, StoreUnavailableError
from broker.db.faults import Faults, is_fault

PASS = [
    "BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.",
    "LOADING Redis is loading the dataset in memory",
    "READONLY You can't write against a read only replica.",
    "READONLY You can't write against a read only replica. script: 0a1b, on @user_script:5.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOREPLICAS Not enough good replicas to write.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF Errors writing to the AOF file: No space left on device",
    "NOSCRIPT No matching script. Please use EVAL.",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "ERR max number of clients reached",
    "ERR Function not found",
]

STAY = [
    "WRONGTYPE Operation against a key holding the wrong kind of value script: 0a1b, on @user_script:7.",
    "ERR user_script:12: attempt to index local 'x' (a nil value) script: 0a1b, on @user_script:12.",
    "ERR unknown command 'XADDD', with args beginning with: 'a' ",
    "ERR wrong number of arguments for 'hset' command",
    "NOPERM User worker has no permissions to run the 'eval' command",
    "ERR ACL failure in script: User worker has no permissions to run the 'hset' command",
    "CROSSSLOT Keys in request don't hash to the same slot",
]


def told(reply: str) -> Exception:
    """Return redis-py's exception for an error reply."""
    error: Exception = BaseParser.parse_error(reply)
    return error


@pytest.mark.parametrize("reply", PASS)
def test_what_passes_is_away(reply: str) -> None:
    assert not is_fault(told(reply))
    assert isinstance(Faults().translate(told(reply), "claim"), StoreUnavailableError)


@pytest.mark.parametrize("reply", STAY)
def test_what_stays_is_a_fault(reply: str) -> None:
    ours = Faults().translate(told(reply), "claim")
    assert isinstance(ours, StoreFaultError)
    assert ours.command == "claim"
    assert reply.split(" ", 1)[1][:30] in str(ours)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (RedisConnectionError("reset"), False),
        (RedisTimeoutError("no answer"), False),
        (InvalidResponse("half a reply"), False),
        (ConnectionResetError(), False),
        (TimeoutError(), False),
        (DataError("Invalid input of type: 'NoneType'"), True),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), True),
        (TypeError("a defect"), True),
        (RuntimeError("dictionary changed size during iteration"), True),
        (RecursionError("maximum recursion depth exceeded"), True),
        (NotImplementedError(), True),
    ],
)
def test_errors_without_a_reply(error: Exception, fault: bool) -> None:
    assert is_fault(error) is fault


def test_a_pipelines_error_is_judged_by_the_reply() -> None:
    error = told(PASS[0])
    error.args = (f"Command # 1 (HGET penstock:job:x state) of pipeline caused error: {error}",)
    assert not is_fault(error)
    error.args = ("Command # 1 (GET BUSY) of pipeline caused error: WRONGTYPE Operation against a key",)
    assert is_fault(error)


def test_every_fault_is_counted_and_nothing_else() -> None:
    seen: list[None] = []
    faults = Faults(lambda: seen.append(None))
    for reply in (*PASS, *STAY):
        faults.translate(told(reply), "claim")
    assert len(seen) == len(STAY)
