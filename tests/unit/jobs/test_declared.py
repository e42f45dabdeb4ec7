"""Which pools of the settings scale from zero, and what is known of them."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.declared import DeclaredPool, DeclaredPoolStartError, from_tables
from jobs.placement import Device


def test_a_table_says_what_is_known_before_a_worker_comes() -> None:
    tables: dict[str, Any] = {
        "chat": {
            "scales_from_zero": True,
            "model": "Qwen/Qwen2.5-7B-Instruct",
            "aliases": ["chat", "gpt"],
            "concurrency": 64,
            "tensor_parallel": 2,
            "device": "NVIDIA L4",
            "device_memory_gb": 48,
        },
        "short": {
            "scales_from_zero": True,
            "model": "/models/x",
            "served_model_name": "x",
            "aliases": "a, b",
        },
        "always": {"model": "m"},
        "never": {"model": "n", "scales_from_zero": False},
    }
    chat, short = from_tables(tables)
    assert chat == DeclaredPool(
        pool="chat",
        model="Qwen/Qwen2.5-7B-Instruct",
        aliases=("chat", "gpt"),
        slots=64,
        device="NVIDIA L4",
        device_memory_gb=48.0,
        devices=2,
        from_settings=True,
    )
    assert chat.runs_on == Device("NVIDIA L4", 48_000_000_000, 2)
    assert (short.model, short.aliases, short.runs_on) == ("x", ("a", "b"), Device())


def test_a_name_of_two_models_is_named_with_both_tables() -> None:
    def tables(**more: Any) -> dict[str, Any]:
        return {
            "a": {"scales_from_zero": True, "model": "m", "aliases": ["fast"]},
            "b": {"scales_from_zero": True, "model": "n", **more},
        }

    assert len(from_tables(tables())) == 2
    assert len(from_tables(tables(model="m", aliases=["fast"]))) == 2  # the same model in two pools
    with pytest.raises(
        DeclaredPoolStartError, match=r"\[pools.b\] aliases: 'fast' means 'n' here, and 'm' in \[pools.a\]"
    ):
        from_tables(tables(aliases=["fast"]))
    with pytest.raises(
        DeclaredPoolStartError, match=r"\[pools.b\] model: 'fast' means 'fast' here, and 'm' in"
    ):
        from_tables(tables(served_model_name="fast"))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"scales_from_zero": True, "engine": "openai"}, r"\[pools.chat\] scales_from_zero: name its model"),
        ({"scales_from_zero": True, "models": ["a", "b"]}, r"several models cannot scale from zero"),
        (
            {"scales_from_zero": "yes", "model": "m"},
            r"\[pools.chat\] scales_from_zero: it must be true or false",
        ),
        ({"scales_from_zero": True, "model": "m", "concurrency": "many"}, r"\[pools.chat\]: .*slots"),
        ({"scales_from_zero": True, "model": "m", "aliases": [1]}, r"\[pools.chat\]: .*aliases"),
    ],
)
def test_a_table_that_does_not_say_enough_is_named(table: dict[str, Any], says: str) -> None:
    with pytest.raises(DeclaredPoolStartError, match=says):
        from_tables({"chat": table})
