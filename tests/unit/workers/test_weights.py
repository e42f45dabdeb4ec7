"""How large a model's weights are, told from its files; and reading vLLM's flags."""

from __future__ import annotations

import json

import pytest

from workers.devices.weights import flag, parameter_count, weights_bytes

# config.json of Qwen/Qwen2.5-7B-Instruct, which has 7.62e9 parameters (its model card)
QWEN_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
# config.json of mistralai/Mixtral-8x7B-v0.1, which has 46.7e9 parameters (its paper)
MIXTRAL = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "vocab_size": 32000,
}


AWQ = {"quant_method": "awq", "bits": 4}
CT_W8A8 = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}}


@pytest.fixture
def folder(tmp_path):
    def make(config=None, **files):
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        for name, size in files.items():
            (tmp_path / f"{name.replace('_', '-')}.safetensors").write_bytes(b"\0" * size)
        return str(tmp_path)

    return make


def test_from_the_files(folder):
    model = folder({"torch_dtype": "bfloat16"}, model_1=1000, model_2=500, consolidated=1500)
    assert weights_bytes(model) == 1500
    assert weights_bytes(model, ["--dtype=float32"]) == 3000
    assert weights_bytes(model, ["--dtype", "auto"]) == 1500


def test_from_the_files_of_the_index(folder, tmp_path):
    model = folder(None, a=10, b=20, c=40)
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weights_bytes(model) == 30


def test_what_is_stored_in_32_bits_is_loaded_in_16(folder):
    assert weights_bytes(folder({"torch_dtype": "float32"}, model=1000)) == 500


def test_from_the_configuration(folder):
    assert weights_bytes(folder(QWEN_7B)) == pytest.approx(2 * 7.62e9, rel=0.01)


@pytest.mark.parametrize(("config", "count"), [(QWEN_7B, 7.62e9), (MIXTRAL, 46.7e9)])
def test_parameters(config, count):
    assert parameter_count(config) == pytest.approx(count, rel=0.01)
    assert parameter_count({"text_config": config}) == pytest.approx(count, rel=0.01)


def test_what_cannot_be_told(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    assert weights_bytes("not/downloaded") is None
    assert weights_bytes(folder()) is None
    assert weights_bytes(folder({"model_type": "odd"})) is None
    assert weights_bytes(folder({**QWEN_7B, "quantization_config": {"quant_method": "odd"}})) is None
    assert weights_bytes(folder(QWEN_7B, model=1000), ["--quantization=bitsandbytes"]) is None
    assert weights_bytes(folder({**QWEN_7B, "quantization_config": AWQ}, model=1000), ["-q", "fp8"]) is None


def test_a_downloaded_model_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"\0" * 7)
    assert weights_bytes("some/model") is None
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    assert weights_bytes("some/model") == 7


def test_flags():
    args = ["--a=1", "--b", "2", "--a=3", "--tensor_parallel_size=2", "-tp"]
    assert flag(args, "--a") == "3"
    assert flag(args, "--b") == "2"
    assert flag(args, "--tensor-parallel-size") == "2"
    assert flag(args, "-tp") == ""
    assert flag(args, "--c") is None


# The sizes on the hub of Qwen2.5-7B-Instruct-AWQ and of neuralmagic's w8a8 of it, in bytes.
@pytest.mark.parametrize(
    ("how", "size"), [(AWQ, 5.57e9), (CT_W8A8, 8.70e9), ({"quant_method": "fp8"}, 8.70e9)]
)
def test_a_quantised_model_is_smaller(folder, how, size):
    assert weights_bytes(folder({**QWEN_7B, "quantization_config": how})) == pytest.approx(size, rel=0.04)


def test_the_files_of_a_quantised_model_are_its_size(folder):
    model = folder({**QWEN_7B, "quantization_config": AWQ}, model=1000)
    assert weights_bytes(model) == weights_bytes(model, ["--quantization=awq_marlin"]) == 1000
    assert weights_bytes(model, ["--dtype=float32"]) == 1000


def test_what_vllm_quantises_as_it_loads(folder):
    model = folder(QWEN_7B, model=15_000)
    assert weights_bytes(model, ["--quantization=fp8"]) == pytest.approx(8.70e9, rel=0.04)
