"""Other weights in a running vLLM: the texts are those of the new checkpoint, and no bad path ends the engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import noisy
from tests.e2e.test_sleeping import answer_of
from workers.engines.base import Engine, ReloadRefusedError

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def other_shapes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 2 * config["hidden_size"]}))


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


async def test_texts_follow_the_weights_there_and_back(
    vllm_engine: Engine, tiny_model_path: Path, tmp_path: Path
) -> None:
    other = noisy(tiny_model_path, tmp_path / "other")
    names = [model.name for model in vllm_engine.models()]
    before = await answer_of(vllm_engine)
    try:
        await vllm_engine.check_weights(str(other))
        await vllm_engine.reload(str(other))
        after = await answer_of(vllm_engine)
        assert after != before
        assert await answer_of(vllm_engine) == after
        assert [model.name for model in vllm_engine.models()] == names
    finally:
        await vllm_engine.reload(str(tiny_model_path))
    assert await answer_of(vllm_engine) == before


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (shutil.rmtree, "no folder of this machine"),
        (no_weights, "no safetensors file"),
        (cut_off, "no whole safetensors file"),
        (other_shapes, "differs in 'hidden_size'"),
    ],
)
async def test_a_checkpoint_that_cannot_take_its_place_is_refused(
    vllm_engine: Engine, tiny_model_path: Path, tmp_path: Path, damage: Callable[[Path], None], why: str
) -> None:
    before = await answer_of(vllm_engine)
    bad = tmp_path / "bad"
    shutil.copytree(tiny_model_path, bad)
    damage(bad)
    for act in (vllm_engine.check_weights, vllm_engine.reload):
        with pytest.raises(ReloadRefusedError, match=why):
            await act(str(bad))
    await vllm_engine.check()
    assert await answer_of(vllm_engine) == before
