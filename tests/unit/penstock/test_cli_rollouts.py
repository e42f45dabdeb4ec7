"""How rollouts and aliases are shown to a person."""

from __future__ import annotations

import pytest

from penstock.cli import models, rollouts
from penstock.rollout_models import Alias, Rollout, Version

FIRST, SECOND = Version(pool="chat"), Version(pool="chat-v2", model="./step-2000", engine_args=("--seed=1",))


def test_a_rollout_says_what_serves_what_comes_and_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    one = Rollout(
        id="chat", state="starting", mode="no_surge", current=FIRST, target=SECOND, message="calls wait"
    )
    rollouts._print_one(one)
    shown = capsys.readouterr().out
    for text in ("starting", "no-surge", "chat-v2 (./step-2000 --seed=1)", "calls wait"):
        assert text in shown
    assert "left there" not in shown
    rollouts._print_one(Rollout(id="chat", state="moving", current=SECOND, previous=FIRST, left=3))
    assert "3 jobs" in capsys.readouterr().out


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    rollouts._print_list([Rollout(id="chat", state="done", current=SECOND, previous=FIRST)])
    assert "done" in capsys.readouterr().out
    models._print_aliases([Alias(id="gpt", model="chat")])
    assert "gpt" in capsys.readouterr().out
    rollouts._print_list([])
    models._print_aliases([])
    said = capsys.readouterr()
    assert said.out == ""
    assert "no alias was set" in said.err
