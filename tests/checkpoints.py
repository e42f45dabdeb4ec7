"""Checkpoints for tests of new versions: others with the shapes of a given one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


def noisy(model: Path, folder: Path, spread: float = 0.3, seed: int = 1) -> Path:
    """Write a checkpoint of the same shapes whose greedy texts are others; return its folder."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    generator = torch.Generator().manual_seed(seed)

    def moved(weight: Any) -> Any:
        if weight.dim() < 2:
            return weight
        noise = torch.randn(weight.shape, generator=generator) * spread * weight.float().std()
        return (weight.float() + noise).to(weight.dtype)

    tensors = {name: moved(weight) for name, weight in load_file(model / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
