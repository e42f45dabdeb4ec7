"""Whether one checkpoint can take the place of another in a running engine: the same shapes, and whole files."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_MOST_HEADER: Final = 100 * 1024 * 1024
"""Bytes of a header. It is the bound of the safetensors library, too."""

_ABOUT_ITSELF: Final = frozenset({"_name_or_path", "transformers_version", "_commit_hash"})
"""Keys of ``config.json`` that say where a checkpoint comes from, not what it is."""


class UnlikeError(Exception):
    """The checkpoint cannot take the other's place. The message says why."""


def check_same_shapes(old: Path, new: Path) -> None:
    """Compare the configuration, the tokenizer, and each tensor's name, type and shape, without reading a weight.

    Args:
        old: the folder of the checkpoint that runs.
        new: the folder of the one that is to take its place.

    Raises:
        UnlikeError: they differ, or a file is missing, cut off or damaged.
    """
    if not new.is_dir():
        raise UnlikeError(f"there is no folder {new}")
    ours, its = _config(old), _config(new)
    for key in sorted(ours.keys() | its.keys()):
        if ours.get(key) != its.get(key):
            raise UnlikeError(
                f"config.json of {new} differs in {key!r}: {its.get(key)!r}, and {ours.get(key)!r} runs"
            )
    for name in ("tokenizer.json", "tokenizer.model"):
        if (old / name).is_file() and (new / name).is_file() and _bytes(old / name) != _bytes(new / name):
            raise UnlikeError(f"{name} of {new} differs; the running engine keeps its tokenizer")
    before, after = _tensors(old), _tensors(new)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            raise UnlikeError(
                f"the tensor {name} of {new} is {_words(after.get(name))}, and {_words(before.get(name))} runs"
            )


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise UnlikeError(f"config.json of {folder} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UnlikeError(f"config.json of {folder} is no object")
    return {key: value for key, value in config.items() if key not in _ABOUT_ITSELF}


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UnlikeError(f"{file} cannot be read: {error}") from error


def _tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the type and shape of each tensor by name, from the headers of the folder's safetensors files."""
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    if not files:
        raise UnlikeError(f"{folder} has no safetensors file")
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        try:
            found |= _header(file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise UnlikeError(f"{file} is no whole safetensors file: {error}") from error
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            wanted = set(json.loads(index.read_bytes())["weight_map"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnlikeError(f"{index} cannot be read: {error}") from error
        if missing := sorted(wanted - found.keys()):
            raise UnlikeError(f"{folder} lacks the tensor {missing[0]} that its index names")
    return found


def _header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    size = file.stat().st_size
    with file.open("rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        if length > min(_MOST_HEADER, size):
            raise ValueError("its header is longer than the file")
        header = json.loads(source.read(length))
    header.pop("__metadata__", None)
    ends = [one["data_offsets"][1] for one in header.values()]
    if 8 + length + max(ends, default=0) != size:
        raise ValueError(f"it has {size} bytes, and its header tells of {8 + length + max(ends, default=0)}")
    return {name: (one["dtype"], tuple(one["shape"])) for name, one in header.items()}


def _words(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return "missing" if tensor is None else f"{tensor[0]} {list(tensor[1])}"
