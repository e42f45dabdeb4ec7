"""Whether a LoRA adapter's matrices are made for a model. vLLM copies those of a smaller model, and answers nonsense."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_WEIGHTS = "adapter_model.safetensors"
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_READS_STATES = re.compile(r"\.(q|k|v|gate|up)_proj\.lora_A\.weight$")
_MOST_HEADER = 64 << 20


def misfit(folder: Path, model: Any) -> str | None:
    """Return why an adapter is for another model, or cannot be read; None: nothing says so.

    Only models of text are looked at, as the towers of others have layers and sizes of their own.

    Args:
        folder: with the adapter's files.
        model: vLLM's ``ModelConfig``.
    """
    try:
        shapes = _shapes(folder / _WEIGHTS)
    except FileNotFoundError:
        return f"it has no {_WEIGHTS}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{_WEIGHTS} cannot be read: {error}"
    if model.is_multimodal_model:
        return None
    config = model.hf_text_config
    size, layers = getattr(config, "hidden_size", None), getattr(config, "num_hidden_layers", None)
    for name, shape in shapes.items():
        at = _LAYER.search(name)
        if at is not None and layers is not None and int(at[1]) >= layers:
            return f"it has weights for layer {at[1]}, and the model has {layers} layers: it is for another model"
        if size is not None and _READS_STATES.search(name) and shape[-1] != size:
            return f"its matrices are for a hidden size of {shape[-1]}, and the model has {size}: it is for another model"
    return None


def _shapes(file: Path) -> dict[str, list[int]]:
    """Read the shapes of a safetensors file: a length in 8 bytes, a header in JSON, then the numbers."""
    size = file.stat().st_size
    with file.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        if not 2 <= length <= min(size - 8, _MOST_HEADER):
            raise ValueError("it is no safetensors file, or only the beginning of one")
        header = json.loads(source.read(length))
    tensors = {name: said for name, said in header.items() if name != "__metadata__"}
    end = max((said["data_offsets"][1] for said in tensors.values()), default=0)
    if not tensors:
        raise ValueError("it has no weights")
    if 8 + length + end != size:
        raise ValueError(f"it has {size} bytes, and its header says {8 + length + end}: a part is missing")
    return {name: said["shape"] for name, said in tensors.items()}
