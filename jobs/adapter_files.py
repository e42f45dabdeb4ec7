"""The files of a LoRA adapter, as PEFT writes them, and what must be true of them before a worker reads them. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"

MOST_CONFIG: Final = 1 << 20
"""Bytes of the configuration at most."""

MOST_HEADER: Final = 32 << 20
"""Bytes of the header of the weights at most."""

_DTYPE_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}


class BadAdapterError(ValueError):
    """An adapter's files are wrong, or cannot be had. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What an adapter's files say.

    Attributes:
        rank: the largest of its matrices.
        base: the model that it was trained on, as its configuration names it; None: it names none.
    """

    rank: int
    base: str | None


@dataclass(frozen=True, slots=True)
class KeptAdapter:
    """An adapter's object in storage: the SHA-256 of its bytes, in hexadecimal, and their number."""

    digest: str
    size: int


def read_config(data: bytes) -> AdapterFacts:
    """Read ``adapter_config.json``.

    Raises:
        BadAdapterError: it is no configuration of a LoRA adapter, or of one that no engine here can run.
    """
    if len(data) > MOST_CONFIG:
        raise BadAdapterError(f"{CONFIG} is larger than {MOST_CONFIG} bytes")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadAdapterError(f"{CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise BadAdapterError(f"{CONFIG} is not a JSON object")
    if config.get("peft_type") != "LORA":
        raise BadAdapterError(
            f"{CONFIG}: peft_type is {config.get('peft_type')!r}; only 'LORA' can be loaded"
        )
    ranks: list[Any] = [config.get("r"), *_values(config.get("rank_pattern"))]
    if not all(isinstance(rank, int) and not isinstance(rank, bool) and rank > 0 for rank in ranks):
        raise BadAdapterError(f"{CONFIG}: r and the values of rank_pattern must be whole numbers above 0")
    for field, off in (
        ("use_dora", (None, False)),
        ("bias", (None, "none")),
        ("modules_to_save", (None, [])),
    ):
        if config.get(field) not in off:
            raise BadAdapterError(
                f"{CONFIG}: {field} is {str(config[field])[:100]!r}, which engines cannot load; train it without"
            )
    base = config.get("base_model_name_or_path")
    return AdapterFacts(max(ranks), base if isinstance(base, str) and base else None)


def header_length(start: bytes, size: int) -> int:
    """Return the length of a safetensors file's header, from the file's first 8 bytes.

    Args:
        size: of the file, in bytes.

    Raises:
        BadAdapterError: it is no such file.
    """
    length = int.from_bytes(start, "little")
    if len(start) != 8 or not 2 <= length <= min(size - 8, MOST_HEADER):
        raise BadAdapterError(f"{WEIGHTS} is no safetensors file, or only the beginning of one")
    return length


def check_header(header: bytes, size: int, facts: AdapterFacts) -> None:
    """Check the header of the weights against their size and the configuration.

    Args:
        header: the JSON at the beginning of the file.
        size: of the file, in bytes.

    Raises:
        BadAdapterError: it is damaged or incomplete, has no LoRA matrices, or a rank that the configuration does not have.
    """
    try:
        tensors = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise BadAdapterError(f"the header of {WEIGHTS} is not JSON: {error}") from error
    if not isinstance(tensors, dict):
        raise BadAdapterError(f"the header of {WEIGHTS} is not a JSON object")
    tensors.pop("__metadata__", None)
    end = 0
    for begin, until in sorted(_place(name, said) for name, said in tensors.items()):
        if begin != end:
            raise BadAdapterError(f"{WEIGHTS}: its tensors overlap or leave gaps")
        end = until
    if 8 + len(header) + end != size:
        raise BadAdapterError(
            f"{WEIGHTS} has {size} bytes, and its header says {8 + len(header) + end}: a part is missing, or too much"
        )
    ranks = {said["shape"][0] for name, said in tensors.items() if name.endswith(".lora_A.weight")}
    if not ranks or not any(".lora_B" in name for name in tensors):
        raise BadAdapterError(f"{WEIGHTS} has no LoRA matrices (lora_A, lora_B)")
    if max(ranks) > facts.rank:
        raise BadAdapterError(f"{WEIGHTS} has matrices of rank {max(ranks)}, and {CONFIG} says {facts.rank}")


def check_fit(facts: AdapterFacts, most_rank: int | None, models: Collection[str]) -> None:
    """Check that an adapter fits its pool.

    Args:
        most_rank: of the pool's workers; None: they do not say.
        models: the names, hub names and paths of the pool's model; empty: not known, or whatever the adapter names is right.

    Raises:
        BadAdapterError: it does not.
    """
    if most_rank is not None and facts.rank > most_rank:
        raise BadAdapterError(
            f"its rank is {facts.rank}, and the pool's workers take {most_rank} at most (setting adapter_max_rank)"
        )
    if facts.base is not None and models and _last(facts.base) not in set(map(_last, models)):
        raise BadAdapterError(
            f"it was trained on {facts.base!r}, and the pool serves {', '.join(map(repr, sorted(set(models))))}. If that is "
            "the same model under another name, add it with any_base"
        )


def _values(pattern: object) -> Collection[object]:
    return pattern.values() if isinstance(pattern, dict) else ()


def _last(name: str) -> str:
    """Return the last part of a hub name or path: the same model has different ones before it."""
    return name.rstrip("/").rpartition("/")[2].lower()


def _place(name: str, said: Mapping[str, Any]) -> tuple[int, int]:
    """Return where a tensor begins and ends in the data."""
    try:
        shape, (begin, end) = said["shape"], said["data_offsets"]
        numbers = [*shape, begin, end]
        right = all(isinstance(one, int) and one >= 0 for one in numbers) and len(shape) == 2
        if right and end - begin == math.prod(shape) * _DTYPE_BYTES[said["dtype"]]:
            return begin, end
    except (LookupError, TypeError, ValueError):
        pass
    raise BadAdapterError(f"{WEIGHTS}: the tensor {name[:100]!r} has a wrong type, shape or place")
