"""A new checkpoint under ``penstock up`` with vLLM: beside the old one, after it, in place; a bad one leaves the old one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import Penstock
from tests.checkpoints import noisy
from tests.integration.test_up import Up
from tests.integration.test_up_rollouts import until
from tests.support import wait_until
from workers.devices.tiny_models import build_tiny_model

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("vllm")]

FLAGS = ("--distributed-executor-backend=uni", "--max-model-len=1024", "--max-num-seqs=8", "--enforce-eager")
QUICK = {"OMP_NUM_THREADS": "1"}
START_S = 240.0
"""An engine starts in 15 s of a core; others may use it, too."""

PROMPT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 24, "temperature": 0}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    first = build_tiny_model(folder)
    return first, noisy(first, folder / "second")


@pytest.fixture(scope="module")
def up(checkpoints: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    flags = [f"--engine-arg={flag}" for flag in FLAGS]
    options = ("--model", str(checkpoints[0]), "--kv-cache-gib", "0.05", "--no-flower", *flags)
    one = Up(tmp_path_factory.mktemp("up"), *options, **QUICK)
    try:
        wait_until(lambda: one.printed("penstock is ready on ") or one.process.poll() is not None, START_S)
        one.until_ready()
        yield one
    finally:
        one.process.kill()
        one.process.wait()


def text_of(client: Penstock) -> str:
    return str(client.wait(client.submit(PROMPT).id).text)


@pytest.mark.parametrize("mode", ["surge", "no_surge", "in_place"])
def test_another_checkpoint_and_back(up: Up, checkpoints: tuple[Path, Path], mode: str) -> None:
    with Penstock(up.url) as client:
        before = text_of(client)
        client.rollouts.start("default", str(checkpoints[1]), mode=mode)
        there = until(client, "default", "done", "failed", timeout_s=START_S)
        assert there.state == "done", there.message
        after = text_of(client)
        assert after != before
        client.rollouts.back("default")
        assert until(client, "default", "done", "failed", timeout_s=START_S).state == "done"
        assert text_of(client) == before


@pytest.mark.parametrize("mode", ["surge", "no_surge", "in_place"])
def test_a_checkpoint_that_is_not_there_leaves_the_old_one(up: Up, mode: str) -> None:
    with Penstock(up.url) as client:
        before = text_of(client)
        client.rollouts.start("default", "/nowhere", mode=mode)
        failed = until(client, "default", "done", "failed", timeout_s=START_S)
        assert failed.state == "failed"
        assert "/nowhere" in (failed.message or "")
        assert text_of(client) == before
