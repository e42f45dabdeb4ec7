"""LoRA adapters as data: names, what must be true of their files, and their facts as models."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.adapter_files import (
    AdapterFacts,
    BadAdapterError,
    check_fit,
    check_header,
    header_length,
    read_config,
)
from jobs.adapters import NO_ADAPTERS, Offered, with_adapters, wrong_name

CONFIG = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "org/Llama"}
TENSORS: dict[str, Any] = {
    "x.lora_A.weight": {"dtype": "F16", "shape": [8, 4], "data_offsets": [0, 64]},
    "x.lora_B.weight": {"dtype": "F16", "shape": [4, 8], "data_offsets": [64, 128]},
}
FACTS = AdapterFacts(8, "org/Llama")


@pytest.mark.parametrize("name", ["sql", "acme/sql-v1.2", "A", "0", "a" * 128, "a/b/c", "a.-_b"])
def test_names(name: str) -> None:
    assert wrong_name(name) is None


@pytest.mark.parametrize(
    "name", ["", "a" * 129, "/a", "a/", "a//b", "-a", ".a", "a b", "a:b", "é", ":version", "a\n"]
)
def test_names_that_are_wrong(name: str) -> None:
    assert wrong_name(name) is not None


@pytest.mark.timeout(20)
@pytest.mark.parametrize("part", ["a", ".a", "-", "/a"])
def test_a_long_wrong_name_takes_no_time(part: str) -> None:
    assert wrong_name("a" + part * (126 // len(part)) + "!") is not None


def test_the_configuration_names_rank_and_base() -> None:
    assert read_config(json.dumps(CONFIG).encode()) == FACTS
    assert read_config(json.dumps(CONFIG | {"rank_pattern": {"q": 32}}).encode()).rank == 32
    assert read_config(b'{"peft_type": "LORA", "r": 1, "bias": "none", "modules_to_save": null}').base is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"peft_type": "IA3"}, "only 'LORA'"),
        ({"r": 0}, "above 0"),
        ({"r": "8"}, "above 0"),
        ({"r": True}, "above 0"),
        ({"rank_pattern": {"q": -1}}, "above 0"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_a_configuration_that_no_engine_can_run(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(BadAdapterError, match=why):
        read_config(json.dumps(CONFIG | changed).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 100_000, b" " * (1 << 21)])
def test_no_configuration_at_all(data: bytes) -> None:
    with pytest.raises(BadAdapterError):
        read_config(data)


def header(changed: dict[str, Any] | None = None) -> bytes:
    return json.dumps({"__metadata__": {"format": "pt"}, **TENSORS, **(changed or {})}).encode()


def test_the_header_of_whole_weights() -> None:
    said = header()
    size = 8 + len(said) + 128
    assert header_length(len(said).to_bytes(8, "little"), size) == len(said)
    check_header(said, size, FACTS)


@pytest.mark.parametrize(
    ("changed", "more", "why"),
    [
        ({}, -1, "a part is missing"),
        ({}, 1, "too much"),
        ({"x.lora_B.weight": TENSORS["x.lora_A.weight"]}, 0, "overlap"),
        ({"y": {"dtype": "F16", "shape": [1, 1], "data_offsets": [130, 132]}}, 4, "gaps"),
        ({"y": {"dtype": "I64", "shape": [1, 1], "data_offsets": [128, 136]}}, 8, "wrong type"),
        ({"y": {"dtype": "F16", "shape": [9, 1], "data_offsets": [128, 130]}}, 2, "wrong type"),
        ({"y": []}, 0, "wrong type"),
        (
            {"y.lora_A.weight": {"dtype": "F16", "shape": [16, 1], "data_offsets": [128, 160]}},
            32,
            "rank 16, and adapter_config.json says 8",
        ),
    ],
)
def test_weights_that_are_damaged(changed: dict[str, Any], more: int, why: str) -> None:
    said = header(changed)
    with pytest.raises(BadAdapterError, match=why):
        check_header(said, 8 + len(said) + 128 + more, FACTS)


def test_weights_of_something_else() -> None:
    said = json.dumps({"w": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}).encode()
    with pytest.raises(BadAdapterError, match="no LoRA matrices"):
        check_header(said, 8 + len(said) + 4, FACTS)
    for start in (b"", b"1234567", b"PK\3\4    ", (1).to_bytes(8, "little")):
        with pytest.raises(BadAdapterError, match="no safetensors file"):
            header_length(start, 1000)


def test_the_base_is_compared_by_the_last_part_of_its_names() -> None:
    check_fit(FACTS, 8, ["chat", "/models/llama"])
    check_fit(FACTS, None, [])
    check_fit(AdapterFacts(8, None), 8, ["other"])
    with pytest.raises(
        BadAdapterError, match=r"trained on 'org/Llama', and the pool serves 'other'.*any_base"
    ):
        check_fit(FACTS, 8, ["other"])
    with pytest.raises(BadAdapterError, match=r"its rank is 8.*take 4 at most"):
        check_fit(FACTS, 4, [])


def test_an_adapter_has_its_bases_facts() -> None:
    base = {
        "name": "m",
        "pool": "p",
        "card": {"id": "m", "root": "/m"},
        "aliases": ["gpt"],
        "max_model_len": 9,
    }
    static = {"name": "old", "pool": "p", "card": {"id": "old", "parent": "m"}}
    said = {"digest": "d", "ready": True}
    *others, made = with_adapters([static, base], [("p", "sql", said)])
    assert others == [static, base]
    assert made["card"] == {"id": "sql", "root": "sql", "parent": "m"}
    assert (made["name"], made["pool"], made["aliases"], made["max_model_len"]) == ("sql", "p", [], 9)
    assert made["capabilities"] == {"adapter_of": "m"}
    assert made["adapter"] == said


def test_an_adapter_gives_way_to_models_and_needs_a_base() -> None:
    base = {"name": "m", "pool": "p", "aliases": ["gpt"]}
    said = {"digest": "d"}
    adapted = [("p", "m", said), ("p", "gpt", said), ("nowhere", "sql", said)]
    assert with_adapters([base], adapted) == [base]
    off = base | {"capabilities": {"adapters": 0}}
    assert with_adapters([off], [("p", "sql", said | {"ready": True})])[-1]["adapter"] == {
        "digest": "d",
        "ready": False,
        "broken": NO_ADAPTERS,
    }


def test_an_adapter_may_belong_to_one_tenant() -> None:
    assert Offered().of("anybody")
    assert Offered(tenant="acme").of("acme")
    assert not Offered(tenant="acme").of("other")
