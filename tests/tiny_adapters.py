"""Random LoRA adapters for the tiny Llama, and broken ones; and how one is declared."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from broker.adapters import Adapters
from jobs.adapters import Adapter
from storage import Storage

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


def tiny_adapter(folder: Path, seed: int, *, rank: int = 8) -> Path:
    """Write an adapter for no model at all, which the simulated engine takes. Other seeds are other versions."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "seed": seed}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights %d" % seed)
    return folder


async def declare(
    adapters: Adapters, storage: Storage, folder: Path, name: str, pool: str = "default"
) -> Adapter:
    """Put an adapter into storage and declare it, or replace it, as the api does. Return its record."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, file.name)
    data = packed.getvalue()
    adapter = Adapter(
        name=name,
        pool=pool,
        source=str(folder),
        key=f"adapters/{uuid.uuid4().hex}",
        digest=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        rank=json.loads((folder / "adapter_config.json").read_text()).get("r", 0),
    )
    await adapters.announce(adapter.key, adapter.key)
    await storage.put(adapter.key, data)
    assert (await adapters.add(adapter, adapter.key, 1000)).kind in {"added", "replaced"}
    return adapter
