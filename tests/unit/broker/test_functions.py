"""Which calls of functions share a command."""

from __future__ import annotations

from broker.db.calls.attempts import Finish
from broker.db.calls.base import Call
from broker.db.calls.jobs import Watch
from broker.db.functions import _groups


def test_calls_of_one_function_that_follow_each_other_share_a_command() -> None:
    end = Finish("j", 1, "w", "succeed", "m", 1, [])
    look: Call = Watch("j", "s")

    def shares(*given: tuple[Call, bytes]) -> list[int]:
        return [len(group) for group in _groups([(call, (blob,)) for call, blob in given])]

    assert shares(*[(end, b"")] * 33) == [16, 16, 1]
    assert shares((end, b""), (end, b""), (look, b""), (look, b""), (end, b"")) == [2, 1, 1, 1]
    large = bytes(200_000)
    assert shares((end, large), (end, b""), (end, large), (end, b"")) == [2, 2], "a command stays short"
    leader = Finish("j", 1, "w", "succeed", "m", 1, [], leads=True)
    assert shares((end, b""), (leader, b""), (end, b""), (end, b"")) == [1, 1, 2], "others may end with it"
