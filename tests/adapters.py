"""LoRA adapters for tests: records, and their declaration as a process of ours makes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from broker.adapters import Adapters
from jobs.adapter_files import CONFIG, WEIGHTS
from jobs.adapters import Adapter


def an_adapter(name: str = "sql", digest: str = "d1", pool: str = "default", **more: Any) -> Adapter:
    key = f"adapters/{pool}/{name}-{digest}"
    return Adapter(
        name=name, pool=pool, source="a folder", key=key, digest=digest, size_bytes=10, rank=8, **more
    )


async def add(adapters: Adapters, adapter: Adapter, most: int = 10, **more: Any) -> str:
    await adapters.announce("one", adapter.key)
    return (await adapters.add(adapter, "one", most, **more)).kind


def write_adapter(folder: Path, *, fill: int = 0, hidden: int = 4, **config: Any) -> Path:
    """Write an adapter of rank 8 without any model at hand. ``fill``: another number, other weights."""
    shapes = {"lora_A": (8, hidden), "lora_B": (hidden, 8)}
    size = 8 * hidden * 2
    tensors = {
        f"base_model.model.q_proj.{name}.weight": {
            "dtype": "F16",
            "shape": shape,
            "data_offsets": [at * size, (at + 1) * size],
        }
        for at, (name, shape) in enumerate(shapes.items())
    }
    header = json.dumps(tensors).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + bytes([fill]) * 2 * size)
    said = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (folder / CONFIG).write_text(json.dumps(said | {"base_model_name_or_path": "tiny"} | config))
    return folder
