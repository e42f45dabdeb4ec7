"""Random LoRA adapters for the tiny Llama, and broken ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

_SIZES = {
    "q_proj": ("num_attention_heads",),
    "k_proj": ("num_key_value_heads",),
    "v_proj": ("num_key_value_heads",),
}


def make_adapter(
    folder: Path,
    model: Path,
    seed: int,
    *,
    rank: int = 8,
    modules: Sequence[str] = ("q_proj", "v_proj"),
    hidden: int | None = None,
    fill: float | None = None,
    **config: Any,
) -> Path:
    """Write an adapter, and return its folder.

    Args:
        folder: made if missing.
        model: the folder of its model.
        seed: other seed, other weights, and so other texts.
        hidden: the size of the model's states, if it is to be a wrong one.
        fill: the value of every weight, if it is not to be random.
        config: further fields of ``adapter_config.json``.
    """
    of_model = json.loads((model / "config.json").read_text())
    numbers = np.random.default_rng(seed)

    def weights(*shape: int) -> Any:
        random = numbers.standard_normal(shape).astype(np.float32) * np.float32(0.5)
        return random if fill is None else np.full(shape, fill, np.float32)

    tensors = {}
    for layer in range(of_model["num_hidden_layers"]):
        for module in modules:
            heads = of_model[_SIZES.get(module, _SIZES["q_proj"])[0]]
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = weights(rank, hidden or of_model["hidden_size"])
            tensors[f"{name}.lora_B.weight"] = weights(heads * of_model["head_dim"], rank)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 16,
        "target_modules": list(modules),
        "bias": "none",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
    }
    (folder / "adapter_config.json").write_text(json.dumps(said | config))
    return folder
