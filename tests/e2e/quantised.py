"""Tiny checkpoints in the formats of quantisation that vLLM reads, made by hand from the tiny model: no library of theirs.

A weight is ``[N, K]``: N outputs of K inputs. Along K, ``group`` weights share a scale; -1 is the whole row.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from safetensors.torch import load_file, save_file

Tensors: TypeAlias = dict[str, Any]

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_FP8_MOST = 448
_LEAST = 1e-9
"""Of a scale: some rows of the tiny model are zero."""


class Format(NamedTuple):
    """A format: what becomes of a weight, given the start of its name, and its ``quantization_config``."""

    pack: Callable[[str, Any], Tensors]
    config: Mapping[str, Any]


def build(model: Path, name: str, folder: Path, **changes: Any) -> Path:
    """Write a checkpoint of the tiny model in a format of :data:`FORMATS`; ``changes`` are of its ``config.json``."""
    made = folder / name
    form = FORMATS[name]
    shutil.copytree(model, made, ignore=shutil.ignore_patterns("model.safetensors"))
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**config, "quantization_config": form.config, **changes}))
    tensors: Tensors = {}
    for key, weight in load_file(model / "model.safetensors").items():
        packed = form.pack(key.removesuffix(".weight"), weight.float()) if "_proj" in key else {key: weight}
        tensors |= packed
    contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(contiguous, str(made / "model.safetensors"), metadata={"format": "pt"})
    return made


def _grouped(weight: Any, group: int) -> Any:
    size = weight.shape[1] if group == -1 else group
    return weight.reshape(weight.shape[0], -1, size)


def _symmetric(weight: Any, group: int, bits: int) -> tuple[Any, Any]:
    """Return integers around 0, and the scale of each group."""
    grouped, top = _grouped(weight, group), 2 ** (bits - 1) - 1
    scale = (grouped.abs().amax(-1) / top).clamp(min=_LEAST)
    values = (grouped / scale[..., None]).round().clamp(-top - 1, top)
    return values.reshape(weight.shape).to(torch.int32), scale


def _asymmetric(weight: Any, group: int, bits: int) -> tuple[Any, Any, Any]:
    """Return integers from 0, and the scale and the zero point of each group."""
    grouped, top = _grouped(weight, group), 2**bits - 1
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    scale = ((high - low) / top).clamp(min=_LEAST)
    zero = (-low / scale).round().clamp(0, top)
    values = (grouped / scale[..., None] + zero[..., None]).round().clamp(0, top)
    return values.reshape(weight.shape).to(torch.int32), scale, zero.to(torch.int32)


def _packed(values: Any, bits: int, dim: int, order: tuple[int, ...] | None = None) -> Any:
    """Put neighbouring integers along a dimension into one of 32 bits."""
    moved = values.movedim(dim, -1)
    moved = moved.reshape(*moved.shape[:-1], -1, 32 // bits)
    if order is not None:
        moved = moved[..., list(order)]
    out = torch.zeros(moved.shape[:-1], dtype=torch.int64)
    for at in range(32 // bits):
        out |= (moved[..., at].to(torch.int64) & (2**bits - 1)) << (bits * at)
    signed = torch.where(out >= 2**31, out - 2**32, out).to(torch.int32)
    return signed.movedim(-1, dim)


def _awq(name: str, weight: Any) -> Tensors:
    values, scale, zero = _asymmetric(weight, 128, 4)
    return {
        f"{name}.qweight": _packed(values.t(), 4, 1, _AWQ_ORDER),
        f"{name}.qzeros": _packed(zero.t(), 4, 1, _AWQ_ORDER),
        f"{name}.scales": scale.t().to(torch.float16),
    }


def _gptq(bits: int, *, by_activation: bool = False) -> Callable[[str, Any], Tensors]:
    def pack(name: str, weight: Any) -> Tensors:
        inputs = weight.shape[1]
        order = torch.arange(inputs)
        if by_activation:
            order = torch.randperm(inputs, generator=torch.Generator().manual_seed(1))
        values, scale = _symmetric(weight[:, order], 128, bits)
        back = torch.argsort(order)
        zero = torch.full_like(scale, 2 ** (bits - 1) - 1, dtype=torch.int32)
        return {
            f"{name}.qweight": _packed((values[:, back] + 2 ** (bits - 1)).t(), bits, 0),
            f"{name}.qzeros": _packed(zero.t(), bits, 1),
            f"{name}.scales": scale.t().to(torch.float16),
            f"{name}.g_idx": (torch.arange(inputs) // 128)[back].to(torch.int32),
        }

    return pack


def _int_packed(bits: int, group: int) -> Callable[[str, Any], Tensors]:
    def pack(name: str, weight: Any) -> Tensors:
        values, scale = _symmetric(weight, group, bits)
        return {
            f"{name}.weight_shape": torch.tensor(weight.shape),
            f"{name}.weight_packed": _packed(values + 2 ** (bits - 1), bits, 1),
            f"{name}.weight_scale": scale.to(torch.bfloat16),
        }

    return pack


def _int(bits: int, group: int) -> Callable[[str, Any], Tensors]:
    def pack(name: str, weight: Any) -> Tensors:
        values, scale = _symmetric(weight, group, bits)
        return {f"{name}.weight": values.to(torch.int8), f"{name}.weight_scale": scale.to(torch.bfloat16)}

    return pack


def _float8(name: str, weight: Any) -> Tensors:
    scale = (weight.abs().amax(1, keepdim=True) / _FP8_MOST).clamp(min=_LEAST)
    values = (weight / scale).clamp(-_FP8_MOST, _FP8_MOST).to(torch.float8_e4m3fn)
    return {f"{name}.weight": values, f"{name}.weight_scale": scale.float()}


def _float8_whole(name: str, weight: Any) -> Tensors:
    scale = weight.abs().amax() / _FP8_MOST
    values = (weight / scale).clamp(-_FP8_MOST, _FP8_MOST).to(torch.float8_e4m3fn)
    return {f"{name}.weight": values, f"{name}.weight_scale": scale.reshape(1).float()}


def _compressed(
    form: str, weights: Mapping[str, Any], activations: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the configuration of a ``compressed-tensors`` checkpoint."""
    base = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "group_size": None}
    base["dynamic"] = False
    inputs = None if activations is None else {**base, "strategy": "token", "dynamic": True, **activations}
    group = {
        "targets": ["Linear"],
        "weights": {**base, **weights},
        "input_activations": inputs,
        "format": form,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
        "config_groups": {"group_0": {**group, "output_activations": None}},
    }


_FOUR = {"num_bits": 4, "strategy": "group", "group_size": 128}
_FLOAT = {"type": "float"}
_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
_FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "ignored_layers": ["lm_head"]}

FORMATS: dict[str, Format] = {
    "awq": Format(_awq, _AWQ),
    "gptq": Format(_gptq(4), _GPTQ),
    "gptq-desc-act": Format(_gptq(4, by_activation=True), {**_GPTQ, "desc_act": True}),
    "gptq-8bit": Format(_gptq(8), {**_GPTQ, "bits": 8}),
    "w8a8": Format(_int(8, -1), _compressed("int-quantized", {}, {})),
    "w4a16": Format(_int_packed(4, 128), _compressed("pack-quantized", _FOUR)),
    "w8a16": Format(_int_packed(8, -1), _compressed("pack-quantized", {})),
    "w4a8": Format(_int(4, 128), _compressed("int-quantized", _FOUR, {})),
    "fp8-dynamic": Format(_float8, _compressed("float-quantized", _FLOAT, _FLOAT)),
    "fp8-per-tensor": Format(_float8_whole, _FP8),
}
