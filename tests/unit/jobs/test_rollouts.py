"""The record of a rollout, and how it changes."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.rollouts import (
    ENGINE_FLAGS,
    Mode,
    Rollout,
    RolloutError,
    RolloutState,
    Version,
    base_of,
    check_flags,
    check_successor,
)

NEW = Rollout.fresh("chat")


def done(one: Rollout) -> Rollout:
    return one.flipped().ended(RolloutState.DONE)


def test_a_pool_without_a_record_serves_itself() -> None:
    assert NEW.current == Version("chat")
    assert not NEW.under_way


def test_there_and_back_and_there_again() -> None:
    begun = NEW.start("m2", (), Mode.SURGE)
    assert (begun.state, begun.target, begun.current.pool) == (
        RolloutState.STARTING,
        Version("chat-v2", "m2"),
        "chat",
    )
    there = done(begun)
    assert (there.current, there.previous, there.target) == (Version("chat-v2", "m2"), Version("chat"), None)
    back = done(there.back())
    assert (back.current, back.previous) == (Version("chat"), Version("chat-v2", "m2"))
    assert done(back.back()).current == there.current
    assert done(back.start("m3", (), Mode.SURGE)).current == Version("chat-v3", "m3")


def test_the_way_back_may_begin_while_the_version_before_ends() -> None:
    moving = NEW.start("m2", (), Mode.SURGE).flipped()
    assert moving.back().target == Version("chat")
    with pytest.raises(RolloutError, match="is under way"):
        moving.start("m3", (), Mode.SURGE)


def test_a_pool_of_somebody_else_is_passed_over() -> None:
    begun = NEW.start("m2", (), Mode.SURGE, {"chat", "chat-v2", "chat-v3"})
    assert begun.target == Version("chat-v4", "m2")
    assert done(begun).start("m3", (), Mode.SURGE, {"chat", "chat-v4"}).target == Version("chat-v5", "m3")


def test_what_is_not_said_stays_as_the_version_before_has_it() -> None:
    args = ("--dtype=float32",)
    there = done(NEW.start("m2", args, Mode.SURGE))
    assert done(there.start(None, ("--seed=1",), Mode.SURGE)).current == Version(
        "chat-v3", "m2", ("--seed=1",)
    )
    assert done(there.start("m3", (), Mode.SURGE)).current == Version("chat-v3", "m3")


def test_weights_in_place_keep_the_pool() -> None:
    there = done(NEW.start("m2", (), Mode.IN_PLACE))
    assert there.current == Version("chat", "m2")
    back = there.back()
    assert (back.mode, back.target) == (Mode.IN_PLACE, Version("chat"))
    surge = done(there.start("m3", (), Mode.SURGE))
    assert surge.back().mode is Mode.SURGE


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (NEW.back, "has no version before"),
        (lambda: NEW.start(None, (), Mode.SURGE), "name a model or a flag"),
        (lambda: NEW.start("m", ("--seed=1",), Mode.IN_PLACE), "takes a model, and no flag"),
        (lambda: NEW.start(None, (), Mode.IN_PLACE), "takes a model, and no flag"),
        (lambda: NEW.start("m", ("--worker-cls=evil",), Mode.SURGE), "may not set --worker-cls"),
        (lambda: NEW.start("m", ("--chat_template=/etc/passwd",), Mode.SURGE), "may not set --chat_template"),
        (lambda: NEW.start("m", ("-tp=2",), Mode.SURGE), "is no flag"),
        (lambda: NEW.start("m", (), Mode.SURGE).start("n", (), Mode.SURGE), "is under way"),
        (lambda: NEW.start("m", (), Mode.SURGE).back(), "is under way"),
        (lambda: NEW.start("m", (), Mode.SURGE).switch("x"), "is under way"),
        (lambda: NEW.switch("chat"), "serves now"),
        (NEW.aborted, "no rollout"),
        (lambda: NEW.start("m", (), Mode.SURGE).flipped().aborted(), "serves already"),
        (lambda: Rollout.fresh("c" * 63).start("m", (), Mode.SURGE), "64 characters"),
    ],
)
def test_what_is_refused(act: Any, why: str) -> None:
    with pytest.raises(RolloutError, match=why):
        act()


def test_no_flag_of_a_rollout_names_code() -> None:
    dangerous = (
        "plugin",
        "cls",
        "code",
        "template",
        "middleware",
        "processor",
        "download",
        "ssl",
        "key",
        "path",
    )
    assert not [flag for flag in ENGINE_FLAGS if any(word in flag for word in dangerous)]
    check_flags(["--max_model_len=100", "--quantization=fp8"])


def test_versions_by_their_names() -> None:
    assert base_of("chat") == ("chat", None)
    assert base_of("chat-v2") == ("chat", "v2")
    assert base_of("chat-v2-v13") == ("chat-v2", "v13")
    assert base_of("chat-v0") == ("chat-v0", None)


@pytest.mark.parametrize(
    ("new", "why"),
    [
        ({"n": {}}, "does not serve 'm'; it serves n"),
        ({"m": {"endpoints": ["/b"], "max_model_len": 10}}, "does not do /a"),
        ({"m": {"endpoints": ["/a", "/b"], "max_model_len": 9}}, "shorter"),
    ],
)
def test_a_successor_that_cannot_run_the_jobs_is_refused(new: Any, why: str) -> None:
    old = {"m": {"endpoints": ["/a"], "max_model_len": 10}}
    check_successor(old, {"m": {"endpoints": ["/a", "/b"], "max_model_len": 11}})
    check_successor(old, {"m": {}})
    with pytest.raises(RolloutError, match=why):
        check_successor(old, new)


def test_a_version_comes_back_as_it_was_written() -> None:
    one = Version("chat-v2", "m", ("--seed=1",))
    assert Version.read(one.written()) == one
