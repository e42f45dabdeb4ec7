"""One request for each ability at an engine's start: what an engine would die of under its clients ends its start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog

from jobs.capabilities import Capabilities
from jobs.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, POOLING, SCORE
from tests.e2e.engines import QUICK_FLAGS
from workers.devices.tiny_models import TINY_MODELS, build_tiny_model
from workers.engines.base import Engine, EngineStartError
from workers.engines.factory import make_engine
from workers.engines.settings import SimulatedSettings, VllmSettings
from workers.engines.vllm.probes import AbilityError, probes, try_abilities

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]

GENERATES = Capabilities(tasks=("generate",), images=0, structured_output=True)


async def test_each_ability_has_its_probe() -> None:
    seeing = Capabilities(tasks=("generate",), images=2, structured_output=True)
    assert [one.ability for one in probes((CHAT, COMPLETIONS), GENERATES)] == [
        "sampling",
        "structured output",
    ]
    assert [one.ability for one in probes((CHAT, COMPLETIONS), seeing)][-1] == "images"
    assert [one.ability for one in probes((SCORE, POOLING), Capabilities())] == ["scores", "pooling"]


async def test_a_running_engine_does_all_that_it_says(vllm_engine: Engine) -> None:
    (model,) = vllm_engine.models()
    assert model.capabilities.structured_output
    assert await try_abilities(vllm_engine, model.endpoints, model.capabilities) == frozenset()


async def test_what_an_engine_refuses_is_told(vllm_engine: Engine) -> None:
    with structlog.testing.capture_logs() as logs:
        refused = await try_abilities(vllm_engine, (COMPLETIONS, EMBEDDINGS), GENERATES)
    assert refused == {"embeddings"}
    (line,) = [line for line in logs if line["event"] == "ability_refused"]
    assert (line["ability"], line["endpoint"]) == ("embeddings", EMBEDDINGS)
    assert line["status"] >= 400


async def test_a_death_names_the_ability() -> None:
    dead = make_engine(SimulatedSettings())  # never started
    with pytest.raises(AbilityError, match=r"dies of a request for sampling \(/v1/completions\)"):
        await try_abilities(dead, (COMPLETIONS,), GENERATES)


@pytest.mark.full
async def test_heads_that_the_build_lacks_end_the_start(vllm_settings: VllmSettings, tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path, TINY_MODELS["tiny-rerank"])
    config = json.loads((folder / "config.json").read_text())
    config["num_attention_heads"] = config["hidden_size"] // 16
    (folder / "config.json").write_text(json.dumps(config))
    engine = make_engine(VllmSettings.tiny(folder, name="heads", max_num_seqs=16, extra_args=QUICK_FLAGS))
    with pytest.raises(EngineStartError, match="no attention on a CPU for heads of size 16"):
        await engine.start()
