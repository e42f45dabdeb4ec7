"""LoRA adapters: settings, flags, and whether an adapter is made for a model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydantic
import pytest

from tests.tiny_adapters import make_adapter
from workers.engines.settings import VllmSettings
from workers.engines.vllm.adapter_shapes import misfit
from workers.engines.vllm.adapters import set_places, shown_name
from workers.settings import WorkerSettings

SHAPE = {
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a model, with its configuration alone."""
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    return tmp_path


def model(**other: int) -> Any:
    return SimpleNamespace(is_multimodal_model=False, hf_text_config=SimpleNamespace(**SHAPE | other))


def test_an_adapter_fits_the_model_that_it_was_made_for(folder: Path) -> None:
    adapter = make_adapter(folder / "a", folder, 1, modules=("q_proj", "k_proj", "v_proj"))
    assert misfit(adapter, model()) is None
    assert "hidden size of 16, and the model has 32" in (misfit(adapter, model(hidden_size=32)) or "")
    assert "layer 1, and the model has 1 layers" in (misfit(adapter, model(num_hidden_layers=1)) or "")
    other = SimpleNamespace(is_multimodal_model=True, hf_text_config=SimpleNamespace(hidden_size=32))
    assert misfit(adapter, other) is None


@pytest.mark.parametrize("cut", [0, 4, 8, 40, -1])
def test_a_part_of_the_weights_is_seen(folder: Path, cut: int) -> None:
    adapter = make_adapter(folder / "a", folder, 1)
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    assert "cannot be read" in (misfit(adapter, model()) or "")


@pytest.mark.parametrize("header", [b"[]", b"{}", b'{"a":1}', b'{"a":{}}', b"\xff\xff"])
def test_a_header_that_says_nonsense_is_seen(folder: Path, header: bytes) -> None:
    adapter = make_adapter(folder / "a", folder, 1)
    (adapter / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "cannot be read" in (misfit(adapter, model()) or "")


def test_flags() -> None:
    assert not [flag for flag in VllmSettings("m").argv() if "lora" in flag]
    flags = VllmSettings("m", adapters=2, adapters_cpu=8, adapter_max_rank=32).argv()
    assert {"--enable-lora", "--max-loras=2", "--max-cpu-loras=8", "--max-lora-rank=32"} <= set(flags)
    assert WorkerSettings(adapters_max=3).adapters_kept == 6
    assert WorkerSettings(adapters_max=3, adapters_cpu_max=20).adapters_kept == 20


def test_each_adapter_of_the_flags_has_a_place_and_one_stays_empty() -> None:
    args = SimpleNamespace(enable_lora=True, max_loras=None, max_cpu_loras=None, lora_modules=["a", "b", "c"])
    set_places(args)
    assert (args.max_loras, args.max_cpu_loras) == (4, 4)
    none = SimpleNamespace(enable_lora=False, max_loras=1, max_cpu_loras=None, lora_modules=None)
    set_places(none)
    assert none.max_cpu_loras is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"adapters_max": 2, "engine": "openai"}, "loads its own adapters"),
        ({"adapters_max": 2, "paced": "H100-8B"}, "no model to adapt"),
        ({"adapters_max": 4, "adapters_cpu_max": 3}, "less than adapters_max"),
        ({"adapter_max_rank": 12}, "take the next larger one"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=why):
        WorkerSettings(**given)


def test_clients_see_the_name_without_the_version() -> None:
    assert shown_name("team/a@version:0123") == "team/a"
    assert shown_name("static") == "static"
