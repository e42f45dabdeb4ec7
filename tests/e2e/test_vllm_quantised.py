"""Quantised checkpoints: each runs, or stops the start with a sentence that says why and what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from workers.devices.weights import weights_bytes
from workers.engines.base import EngineRequest, EngineStartError
from workers.engines.factory import make_engine
from workers.engines.settings import VllmSettings

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("vllm"),
    pytest.mark.full,  # each starts an engine of its own; the sentences have unit tests
]

PROMPT = "the river is a stream of water that flows down from the mountain to the ocean"


def settings(base: VllmSettings, model: Path, dtype: str, *flags: str) -> VllmSettings:
    return replace(base, model=str(model), dtype=dtype, extra_args=(*base.extra_args, *flags))


async def run(made: VllmSettings) -> tuple[str, str | None]:
    """Start an engine, and return its greedy text and what it says of its quantisation."""
    engine = make_engine(made)
    try:
        await engine.start()
        body = {
            "model": "tiny-random",
            "prompt": PROMPT,
            "max_tokens": 16,
            "temperature": 0,
            "ignore_eos": True,
        }
        final = await engine.run(
            EngineRequest("job_1", "/v1/completions", json.dumps(body).encode()), lambda _: None
        )
        assert final.status == 200, final.body
        assert final.usage is not None
        assert final.usage.completion_tokens == 16
        return json.loads(final.body)["choices"][0]["text"], engine.models()[0].capabilities.quantization
    finally:
        await engine.stop()


@pytest.mark.parametrize(
    ("form", "named"),
    [
        ("awq", "awq"),
        ("gptq", "auto_gptq"),
        *((form, "compressed-tensors") for form in ("w8a8", "w4a16", "w4a8", "fp8-dynamic")),
    ],
)
async def test_runs(
    vllm_settings: VllmSettings, tiny_model_path: Path, tmp_path: Path, form: str, named: str
) -> None:
    from tests.e2e.quantised import build

    model = build(tiny_model_path, form, tmp_path)
    text, quantization = await run(settings(vllm_settings, model, "bfloat16"))
    assert quantization == named
    assert " " in text
    plain, size = weights_bytes(str(tiny_model_path)), weights_bytes(str(model))
    assert plain is not None
    assert size is not None
    assert size == (model / "model.safetensors").stat().st_size < plain


async def test_the_kv_cache_may_be_fp8(vllm_settings: VllmSettings, tiny_model_path: Path) -> None:
    text, _ = await run(settings(vllm_settings, tiny_model_path, "bfloat16", "--kv-cache-dtype=fp8"))
    assert " " in text


@pytest.mark.parametrize(
    ("form", "dtype", "sentence"),
    [
        ("gptq-desc-act", "bfloat16", "orders weights by activation"),
        ("gptq-8bit", "bfloat16", "no code for the checkpoint's quantisation"),
        ("w8a16", "bfloat16", "no code for the checkpoint's quantisation"),
        pytest.param(
            *("fp8-per-tensor", "bfloat16", "no code for the checkpoint's quantisation"),
            marks=pytest.mark.skipif(
                "__import__('torch').cpu._is_amx_tile_supported()", reason="CPUs with AMX run it"
            ),
        ),
        ("w4a16", "float32", "weights of 4 bits does not run in float32 on a CPU"),
        ("awq", "float32", "quantised with awq does not run in float32"),
    ],
)
async def test_is_refused_with_a_sentence(
    vllm_settings: VllmSettings, tiny_model_path: Path, tmp_path: Path, form: str, dtype: str, sentence: str
) -> None:
    from tests.e2e.quantised import build

    model = build(tiny_model_path, form, tmp_path)
    with pytest.raises(EngineStartError) as caught:
        await run(settings(vllm_settings, model, dtype))
    assert sentence in str(caught.value)
