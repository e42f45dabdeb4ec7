"""The bound on failed tries."""

from __future__ import annotations

import pytest

from api.access import throttle
from api.access.throttle import Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_so_many_tries_fail_and_then_one_more_in_its_time() -> None:
    clock = Clock()
    tries = Throttle(4, clock)
    for _ in range(4):
        assert tries.wait_s("10.0.0.1") == 0
        tries.failed("10.0.0.1")
    assert tries.wait_s("10.0.0.1") == 15
    assert tries.wait_s("10.0.0.2") == 0
    clock.now += 14
    assert tries.wait_s("10.0.0.1") == 1
    clock.now += 1
    assert tries.wait_s("10.0.0.1") == 0
    tries.failed("10.0.0.1")
    assert tries.wait_s("10.0.0.1") == 15
    clock.now += 60
    for _ in range(4):
        assert tries.wait_s("10.0.0.1") == 0
        tries.failed("10.0.0.1")
    assert tries.wait_s("10.0.0.1") == 15


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "", True),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_neighbours_of_one_customer_count_as_one(one: str, other: str, *, same: bool) -> None:
    tries = Throttle(1, Clock())
    tries.failed(one)
    assert (tries.wait_s(other) > 0) is same


def test_its_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "_ADDRESSES", 3)
    tries = Throttle(1, Clock())
    for address in "abcd":
        tries.failed(address)
    assert [tries.wait_s(address) > 0 for address in "abcd"] == [False, True, True, True]
