"""What makes one checkpoint fit in the place of another, by its files alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from workers.devices.same_shapes import UnlikeError, check_same_shapes

CONFIG = {"hidden_size": 8, "_name_or_path": "first"}


def weights(file: Path, *, dtype: str = "F32", shape: tuple[int, ...] = (2, 2), name: str = "w") -> None:
    size = 4 * shape[0] * shape[1]
    header = json.dumps(
        {"__metadata__": {"format": "pt"}, name: {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}
    ).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


def checkpoint(folder: Path, config: dict[str, Any] | None = None, **given: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (folder / "tokenizer.json").write_text("{}")
    weights(folder / "model.safetensors", **given)
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "old")


def test_the_same_shapes_fit_wherever_they_come_from(old: Path, tmp_path: Path) -> None:
    check_same_shapes(old, checkpoint(tmp_path / "new", CONFIG | {"_name_or_path": "second"}))
    check_same_shapes(old, old)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"dtype": "BF16"}, "the tensor w of .* is BF16"),
        ({"shape": (4, 1)}, r"the tensor w of .* is F32 \[4, 1\], and F32 \[2, 2\] runs"),
        ({"name": "v"}, "the tensor v of .* is F32 .* and missing runs"),
        ({"config": CONFIG | {"rope_theta": 5}}, "differs in 'rope_theta': 5, and None runs"),
    ],
)
def test_another_shape_does_not(old: Path, tmp_path: Path, given: Any, why: str) -> None:
    with pytest.raises(UnlikeError, match=why):
        check_same_shapes(old, checkpoint(tmp_path / "new", **given))


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("model.safetensors", b"", "no whole safetensors file"),
        ("model.safetensors", struct.pack("<Q", 2**60) + b"{}", "its header is longer than the file"),
        ("model.safetensors", struct.pack("<Q", 2) + b"[]", "no whole safetensors file"),
        ("model.safetensors.index.json", b'{"weight_map": {"w": "a", "more": "b"}}', "lacks the tensor more"),
        ("model.safetensors.index.json", b"[", "cannot be read"),
        ("config.json", b"[]", "is no object"),
        ("config.json", b"{", "cannot be read"),
        ("tokenizer.json", b"[1]", "the running engine keeps its tokenizer"),
    ],
)
def test_a_damaged_file_is_seen(old: Path, tmp_path: Path, file: str, content: bytes, why: str) -> None:
    new = checkpoint(tmp_path / "new")
    (new / file).write_bytes(content)
    with pytest.raises(UnlikeError, match=why):
        check_same_shapes(old, new)


def test_a_file_that_is_cut_off_is_seen(old: Path, tmp_path: Path) -> None:
    new = checkpoint(tmp_path / "new")
    file = new / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UnlikeError, match="its header tells of"):
        check_same_shapes(old, new)


def test_a_folder_that_is_not_there(old: Path, tmp_path: Path) -> None:
    with pytest.raises(UnlikeError, match="there is no folder"):
        check_same_shapes(old, tmp_path / "nowhere")
