"""Who holds the devices of a swap group: the decision alone, and over time in a small model of a group."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.swapping import LINGER, Member, Rules, Wait, cost_ms, decide, expected_wake_ms

RULES = Rules(awake=1, min_stay_ms=5000, max_wait_ms=30_000)


def waiting(
    oldest_ms: float, jobs: int = 1, lane: str = "realtime", left_ms: float | None = None
) -> tuple[Wait, ...]:
    return (Wait(lane, jobs, oldest_ms, left_ms),)


def member(worker: str, **facts: Any) -> Member:
    return Member(worker, **{"wake_ms": 2000.0, "sleep_ms": 500.0} | facts)


def awake(worker: str, for_ms: float = 60_000, **facts: Any) -> Member:
    return member(worker, holds=True, awake_ms=for_ms, **facts)


def told(*members: Member, wanted: str = "a", rules: Rules = RULES) -> set[str]:
    return set(decide(members, frozenset(wanted), rules))


def test_a_free_place_goes_to_whoever_asks() -> None:
    assert told(member("a"), member("b", waits=waiting(0)), wanted="") == {"b"}
    assert told(member("a"), member("b"), wanted="") == set()  # nobody asks


def test_an_idle_member_gives_way_after_a_moment() -> None:
    comer = member("b", waits=waiting(100))
    assert told(awake("a", idle_ms=LINGER * 2500), comer) == {"b"}
    assert told(awake("a", idle_ms=LINGER * 2500 - 1), comer) == {"a"}


def test_one_that_works_gives_way_to_jobs_that_wait_for_a_few_swaps() -> None:
    busy = awake("a", running=1)
    assert told(busy, member("b", waits=waiting(7400))) == {"a"}
    assert told(busy, member("b", waits=waiting(7500))) == {"b"}
    assert told(awake("a", 4999, running=1), member("b", waits=waiting(7500))) == {"a"}  # its minimum stay


@pytest.mark.parametrize(
    ("holds", "comes", "first"),
    [
        ({"running": 16}, {"waits": waiting(8000)}, "a"),  # many jobs against one
        ({"running": 1}, {"waits": waiting(4000, jobs=4)}, "b"),  # one against many
        ({"running": 1, "waits": waiting(5000)}, {"waits": waiting(8000)}, "a"),  # its own wait, too
        ({"running": 1}, {"waits": waiting(8000, lane="bulk")}, "a"),
        ({"waits": waiting(20_000, lane="bulk")}, {"waits": waiting(8200)}, "b"),
        ({"running": 16}, {"waits": waiting(30_000, lane="bulk")}, "b"),  # too long, whatever the lane
        ({"running": 16}, {"waits": waiting(10, left_ms=4000)}, "b"),  # its deadline is near
        ({"running": 16}, {"waits": waiting(10, left_ms=2000)}, "a"),  # it cannot be met any more
        ({"running": 16}, {"waits": waiting(10, left_ms=60_000)}, "a"),
        ({"running": 16}, {"boots": True}, "b"),  # nobody can use it before it has loaded
    ],
)
def test_who_is_first(holds: dict[str, Any], comes: dict[str, Any], first: str) -> None:
    assert told(awake("a", **holds), member("b", **comes)) == {first}


@pytest.mark.parametrize(("failures", "pause_ms"), [(1, 30_000), (3, 120_000), (99, 1_800_000)])
def test_a_member_whose_load_failed_waits_longer_each_time(failures: int, pause_ms: float) -> None:
    busy = awake("a", running=8)
    broken = {"boots": True, "failures": failures, "waits": waiting(90_000)}
    assert told(busy, member("b", failed_ms=pause_ms - 1, **broken)) == {"a"}
    assert told(busy, member("b", failed_ms=pause_ms, **broken)) == {"b"}
    asks = member("a", waits=waiting(0))
    assert told(asks, member("b", failed_ms=0, **broken), wanted="") == {"a"}
    assert told(member("b", failed_ms=0, **broken), wanted="") == {"b"}  # the place is free


def test_of_those_that_waited_for_too_long_each_has_its_turn() -> None:
    late = waiting(31_000), waiting(90_000)
    members = [
        awake("a", running=9),
        member("b", waits=late[0], away_ms=200),
        member("c", waits=late[1], away_ms=100),
    ]
    assert told(*members) == {"b"}  # although jobs of c wait for longer


def test_of_several_that_ask_the_one_with_most_to_do_is_next() -> None:
    few, many = member("b", waits=waiting(6000)), member("c", waits=waiting(3000, jobs=16))
    assert told(awake("a", idle_ms=9000.0), few, many) == {"c"}


def test_nothing_changes_while_a_swap_is_under_way() -> None:
    late = member("c", waits=waiting(99_000))
    assert told(member("a", holds=True), late) == {"a"}  # it wakes
    assert told(awake("a", running=1), member("b", holds=True), late) == {"a"}  # b is on its way to sleep


def test_members_that_leave_are_no_candidates() -> None:
    assert told(awake("a", leaves=True), member("b", leaves=True, waits=waiting(99_000))) == set()
    assert told(member("b"), wanted="ab") == {"b"}  # a has gone


def test_two_may_be_awake() -> None:
    rules = Rules(awake=2)
    two = awake("a", running=3), awake("b", idle_ms=9000.0)
    assert told(*two, member("c", waits=waiting(0)), wanted="ab", rules=rules) == {"a", "c"}
    assert told(two[0], member("c", waits=waiting(0)), rules=rules) == {"a", "c"}


def test_when_a_member_wakes_is_estimated() -> None:
    asks, busy = member("b"), awake("a", 1000, running=1)
    assert expected_wake_ms(asks, [asks], frozenset(), RULES) == 2000
    assert expected_wake_ms(asks, [asks, awake("a", idle_ms=9000.0)], frozenset("a"), RULES) == 2500
    assert expected_wake_ms(asks, [asks, busy], frozenset("a"), RULES) == 3 * 2500 + 2500
    assert expected_wake_ms(asks, [asks, busy], frozenset("b"), RULES) == 2500
    assert expected_wake_ms(member("b", holds=True), [busy], frozenset("b"), RULES) == 2000


class Group:
    """A group with a clock: jobs come, run for a while, and swaps take their time. Looks are ``step_ms`` apart."""

    step_ms, service_ms, wake_ms, sleep_ms = 250.0, 1000.0, 2000.0, 500.0

    def __init__(self, size: int, rules: Rules) -> None:
        self.rules, self.now = rules, 0.0
        self.queued: list[list[float]] = [[] for _ in range(size)]
        self.running: list[list[float]] = [[] for _ in range(size)]
        self.state = ["asleep"] * size
        self.until, self.ready_at = [0.0] * size, [0.0] * size
        self.away_at, self.busy_at = [0.0] * size, [0.0] * size
        self.wanted: frozenset[str] = frozenset()
        self.decide = decide
        self.waits: list[float] = []
        self.stays: list[float] = []

    def members(self) -> list[Member]:
        return [self._member(place) for place in range(len(self.state))]

    def _member(self, place: int) -> Member:
        ready, queue = self.state[place] in {"ready", "leaving"}, self.queued[place]
        busy = bool(queue or self.running[place])
        holds = self.state[place] != "asleep"
        return Member(
            str(place),
            holds=holds,
            awake_ms=self.now - self.ready_at[place] if ready else None,
            running=len(self.running[place]),
            idle_ms=None if busy else self.now - self.busy_at[place],
            away_ms=0.0 if holds else self.now - self.away_at[place],
            waits=waiting(self.now - queue[0], len(queue)) if queue else (),
            wake_ms=self.wake_ms,
            sleep_ms=self.sleep_ms,
        )

    def step(self, arrivals: Sequence[int]) -> None:
        for place in arrivals:
            self.queued[place].append(self.now)
        for place in range(len(self.state)):
            self.running[place] = [end for end in self.running[place] if end > self.now]
            if self.queued[place] or self.running[place]:
                self.busy_at[place] = self.now
        self.wanted = self.decide(self.members(), self.wanted, self.rules)
        for place in range(len(self.state)):
            self._move(place)
        assert sum(state != "asleep" for state in self.state) <= self.rules.awake
        self.now += self.step_ms

    def _move(self, place: int) -> None:
        wanted, state = str(place) in self.wanted, self.state[place]
        holders = sum(one != "asleep" for one in self.state)
        if state == "ready" and not wanted:
            self.stays.append(self.now - self.ready_at[place])
            state = "leaving"
        if state == "leaving" and not self.running[place]:
            state, self.until[place] = "goes", self.now + self.sleep_ms
        elif state == "goes" and self.now >= self.until[place]:
            state, self.away_at[place] = "asleep", self.now
        elif state == "asleep" and wanted and holders < self.rules.awake:
            state, self.until[place] = "wakes", self.now + self.wake_ms
        elif state == "wakes" and self.now >= self.until[place]:
            state, self.ready_at[place] = "ready", self.now
        self.state[place] = state
        if state == "ready":
            self.waits += [self.now - came for came in self.queued[place]]
            self.running[place] += [self.now + self.service_ms] * len(self.queued[place])
            self.queued[place] = []


def run(group: Group, steps: int, arrivals: Callable[[int], Sequence[int]]) -> None:
    for step in range(steps):
        group.step(arrivals(step))


@given(
    size=st.integers(2, 4),
    awake_at_once=st.integers(1, 2),
    pattern=st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=60),
)
@settings(max_examples=30, deadline=None)
def test_nobody_starves(size: int, awake_at_once: int, pattern: list[list[int]]) -> None:
    """Whatever comes: a job waits for the bound, and then for one turn of each other member at most."""
    rules = Rules(awake=awake_at_once, min_stay_ms=5000, max_wait_ms=10_000)
    group = Group(size, rules)
    run(group, 600, lambda step: [one % size for one in pattern[step % len(pattern)]])
    turn = rules.min_stay_ms + group.service_ms + group.sleep_ms + group.wake_ms + 4 * group.step_ms
    oldest = max([0.0, *group.waits, *(group.now - queue[0] for queue in group.queued if queue)])
    assert oldest <= rules.max_wait_ms + size * turn


@given(pattern=st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=60))
@settings(max_examples=30, deadline=None)
def test_members_that_work_stay(pattern: list[list[int]]) -> None:
    """Nobody who has work leaves before the minimum stay; one that has none, not before it has lingered."""
    group = Group(3, RULES)
    run(group, 400, lambda step: pattern[step % len(pattern)])
    least = min(RULES.min_stay_ms, LINGER * cost_ms(member("a"), member("b")))
    assert all(stay >= least for stay in group.stays)


def test_constant_load_does_not_play_ping_pong() -> None:
    """Two models that are always in use: swaps take a third of the time at most."""
    group = Group(2, RULES)
    run(group, 2400, lambda step: [step % 2])
    swaps = len(group.stays)
    assert 10 <= swaps <= group.now / (RULES.min_stay_ms + group.wake_ms + group.sleep_ms)
    assert min(group.stays) >= RULES.min_stay_ms


def test_an_idle_group_stays_as_it_is() -> None:
    group = Group(3, RULES)
    run(group, 40, lambda step: [0] if step == 0 else [])
    assert group.wanted == {"0"}
    assert not group.stays


def in_turns(members: Iterable[Member], wanted: frozenset[str], rules: Rules) -> frozenset[str]:
    """A round robin: each member in turn, for as long as the policy lets one stay that has work."""
    everyone = sorted(members, key=lambda one: one.worker)
    holder = next((one for one in everyone if one.worker in wanted), None)
    if holder is None:
        return frozenset({everyone[0].worker})
    moves = holder.awake_ms is None or any(one.holds for one in everyone if one is not holder)
    if moves or holder.awake_ms is None or holder.awake_ms < rules.min_stay_ms:
        return wanted
    return frozenset({everyone[(everyone.index(holder) + 1) % len(everyone)].worker})


def shifting(step: int) -> list[int]:
    """Six calls a second to one of three models, which changes every 20 s, and one in ten seconds to each other one."""
    rng = random.Random(step)
    hot = int(step * Group.step_ms // 20_000) % 3
    return [one for one in range(3) for _ in range(3) if rng.random() < (6 if one == hot else 0.1) / 12]


def test_waits_under_shifting_load_are_half_of_round_robins() -> None:
    p95 = {}
    for policy in (decide, in_turns):
        group = Group(3, RULES)
        group.decide = policy
        run(group, 1200, shifting)
        p95[policy] = sorted(group.waits)[int(len(group.waits) * 0.95)]
    assert p95[decide] <= p95[in_turns] / 2
