"""The size of a model's weights, from its files, without loading it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "half": 2, "float": 4}
_INDEX = "model.safetensors.index.json"


def flag(args: Sequence[str], *names: str) -> str | None:
    """Return the value of a flag of ``vllm serve``, of several the last; None if it is not there.

    Args:
        args: ``--a=b``, or ``--a`` and ``b``.
        names: the flag's, with dashes.
    """
    value = None
    for at, arg in enumerate(args):
        name, equals, said = arg.partition("=")
        if name.replace("_", "-") in names:
            value = said if equals else (args[at + 1] if at + 1 < len(args) else "")
    return value


def model_folder(model: str) -> Path | None:
    """Return the folder of a model's files, on this machine; None if it is not downloaded yet."""
    path = Path(model)
    if path.is_dir():
        return path
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{model.replace('/', '--')}"
    try:
        revision = (cache / "refs" / "main").read_text().strip()
    except OSError:
        return None
    snapshot = cache / "snapshots" / revision
    return snapshot if snapshot.is_dir() else None


def weights_bytes(model: str, engine_args: Sequence[str] = ()) -> int | None:
    """Return the size of one copy of a model's weights in memory; None if it is not known.

    It comes from the safetensors files if they are here, else from ``config.json``. It is not known of a model that is not
    downloaded yet, nor if the engine changes the weights as it loads them, other than to FP8 (``--quantization=fp8``).

    Args:
        model: a folder or a hub name.
        engine_args: vLLM's flags.
    """
    folder = model_folder(model)
    if folder is None or flag(engine_args, "--cpu-offload-gb"):
        return None
    config = _config(folder)
    stored_as, wanted = quantization(config), flag(engine_args, "--quantization", "-q")
    if wanted and not (stored_as is not None and wanted.startswith(stored_as.method)):
        online = Quantization(wanted, _ONLINE_BITS[wanted]) if wanted in _ONLINE_BITS else None
        return None if stored_as is not None or online is None else _quantized_bytes(config, online)
    stored = "" if stored_as is not None else str(config.get("torch_dtype") or config.get("dtype"))
    asked = flag(engine_args, "--dtype") or ""
    size = _stored_bytes(folder)
    if size is None:
        if stored_as is not None:
            return _quantized_bytes(config, stored_as)
        bytes_each = _DTYPE_BYTES.get(asked) or _DTYPE_BYTES.get(stored, 2)
        parameters = parameter_count(config)
        return None if parameters is None else parameters * bytes_each
    if asked in _DTYPE_BYTES and stored in _DTYPE_BYTES:
        return size * _DTYPE_BYTES[asked] // _DTYPE_BYTES[stored]
    # vLLM's own choice, `auto`, halves what is stored in 32 bits.
    return size // 2 if stored == "float32" else size


class Quantization(NamedTuple):
    """How weights are stored.

    Attributes:
        method: vLLM's name of it, such as ``awq``.
        bits: of each weight of a layer; None: it is not known.
    """

    method: str
    bits: int | None


_ONLINE_BITS = {"fp8": 8, "experts_int8": 8}
_METHOD_BITS = {"fp8": 8, "fbgemm_fp8": 8, "mxfp4": 4}
_SCALES_BITS = 0.2
"""Scales and zero points, for each weight, at the usual 128 weights in a group."""


def quantization(config: Mapping[str, Any]) -> Quantization | None:
    """Return how a checkpoint is quantised, by its ``config.json``; None: it is not."""
    said = config.get("quantization_config")
    if not isinstance(said, dict) or not said:
        return None
    method = str(said.get("quant_method") or "")
    bits = said.get("bits") or _METHOD_BITS.get(method)
    if said.get("load_in_4bit") or said.get("load_in_8bit"):
        bits = 4 if said.get("load_in_4bit") else 8
    for group in (said.get("config_groups") or {}).values():
        weights = group.get("weights") if isinstance(group, dict) else None
        bits = bits or (weights or {}).get("num_bits")
    return Quantization(method, bits if isinstance(bits, int) else None)


def _quantized_bytes(config: dict[str, Any], how: Quantization) -> int | None:
    """Estimate: layers are quantised, embeddings and the output layer keep 16 bits."""
    if how.bits is None or (sizes := _parameters(config)) is None:
        return None
    tables, layers = sizes
    return int(tables * 2 + layers * (how.bits + _SCALES_BITS) / 8)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _stored_bytes(folder: Path) -> int | None:
    try:
        index = json.loads((folder / _INDEX).read_text())
        files: set[Path] = {folder / name for name in index["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError):
        files = set(folder.glob("model*.safetensors")) or set(folder.glob("*.safetensors"))
    if not files or not all(file.exists() for file in files):
        return None
    return sum([file.stat().st_size for file in files])


def parameter_count(config: dict[str, Any]) -> int | None:
    """Estimate a decoder's parameters from its ``config.json``: embeddings, attention and gated feed-forward layers.

    None if a size is missing, or if the layers differ from each other (mixtures of experts do not).
    """
    sizes = _parameters(config)
    return None if sizes is None else sum(sizes)


def _parameters(config: dict[str, Any]) -> tuple[int, int] | None:
    """Return the parameters of the embeddings with the output layer, and those of the layers."""
    text = config.get("text_config") or config
    try:
        hidden, layers = int(text["hidden_size"]), int(text["num_hidden_layers"])
        heads, vocabulary = int(text["num_attention_heads"]), int(text["vocab_size"])
        inner = int(text.get("moe_intermediate_size") or text["intermediate_size"])
    except (KeyError, TypeError, ValueError):
        return None
    head_size = int(text.get("head_dim") or hidden // heads)
    kv_heads = int(text.get("num_key_value_heads") or heads)
    experts = int(
        text.get("num_local_experts") or text.get("num_experts") or text.get("n_routed_experts") or 1
    )
    attention = 2 * hidden * heads * head_size + 2 * hidden * kv_heads * head_size
    tables = vocabulary * hidden * (1 if text.get("tie_word_embeddings") else 2)
    return tables, layers * (attention + 3 * hidden * inner * experts)
