"""LoRA adapters in vLLM: loaded, tried and unloaded while it serves."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from jobs.stream_chunks import Chunk, Frames, Head, Text
from tests.e2e.vllm_servers import server_process
from tests.tiny_adapters import make_adapter
from workers.engines.base import AdapterBrokenError, Engine, EngineRequest
from workers.engines.factory import make_engine
from workers.engines.settings import VllmSettings

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
NUMBERS = itertools.count()

pytestmark = [
    pytest.mark.full,  # an engine of its own
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("vllm"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine(vllm_settings: VllmSettings) -> AsyncIterator[Engine]:
    """An engine that takes two adapters in a batch and holds three."""
    made = make_engine(replace(vllm_settings, adapters=2, adapters_cpu=3, adapter_max_rank=8))
    await made.start()
    yield made
    await made.stop()


async def say(
    engine: Engine,
    folder: Path | None = None,
    count: int = 24,
    *,
    path: str = COMPLETIONS,
    stream: bool = False,
) -> tuple[str, str]:
    """Return a greedy answer, and the name of the model in it."""
    asked: dict[str, Any] = {"prompt": "hello world"}
    if path == CHAT:
        asked = {"messages": [{"role": "user", "content": "hello world"}]}
    body = {"model": "whatever" if folder else "tiny-random", **asked, "max_tokens": count, "temperature": 0}
    chunks: list[Chunk] = []
    final = await engine.run(
        EngineRequest(
            f"adapters-{next(NUMBERS)}",
            path,
            json.dumps(body | {"ignore_eos": True}).encode(),
            stream=stream,
            adapter=folder,
        ),
        chunks.append,
    )
    assert final.status == 200, final.body
    answer = json.loads(final.body)
    choice = answer["choices"][0]
    text = choice["text"] if path == COMPLETIONS else choice["message"]["content"]
    if stream:
        assert isinstance(chunks[0], Head)
        assert f'"model":"{answer["model"]}"' in str(chunks[0])
        assert "".join(one.text for one in chunks if isinstance(one, Text)) + _last(chunks) == text
    return text, answer["model"]


def _last(chunks: list[Chunk]) -> str:
    (frames,) = [one for one in chunks if isinstance(one, Frames)]
    choice = json.loads(frames.frames[0])["choices"][0]
    return choice.get("text") or choice.get("delta", {}).get("content") or ""


async def test_adapters_answer_by_their_own_weights(
    engine: Engine, tmp_path: Path, tiny_model_path: Path
) -> None:
    a, b = (make_adapter(tmp_path / f"v{seed}", tiny_model_path, seed) for seed in (1, 2))
    await engine.load_adapter("team/a", a)
    await engine.load_adapter("b", b)
    assert engine.adapters() == {a, b}
    said = [await say(engine, folder) for folder in (None, a, b)]
    assert [model for _, model in said] == ["tiny-random", "team/a", "b"]
    assert len({text for text, _ in said}) == 3
    for path, stream in itertools.product((CHAT, COMPLETIONS), (False, True)):
        at_once = await asyncio.gather(*(say(engine, one, path=path, stream=stream) for one in (None, a, b)))
        alone = [await say(engine, one, path=path) for one in (None, a, b)]
        assert at_once == alone
    await engine.unload_adapter(a)
    await engine.unload_adapter(b)
    assert engine.adapters() == frozenset()
    assert await say(engine) == said[0]


async def test_answers_are_those_of_vllms_own_server(
    engine: Engine, vllm_settings: VllmSettings, tmp_path: Path, tiny_model_path: Path
) -> None:
    folders = {f"a{seed}": make_adapter(tmp_path / f"v{seed}", tiny_model_path, seed) for seed in (1, 2)}
    modules = [f"{name}={folder}" for name, folder in folders.items()]
    flags = ("--enable-lora", "--max-loras=3", "--max-lora-rank=8", "--lora-modules", *modules)
    theirs = {}
    with server_process(replace(vllm_settings, extra_args=flags), {**os.environ}, tmp_path / "log") as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            for name in folders:
                body = {"model": name, "prompt": "hello world", "max_tokens": 24, "temperature": 0}
                answer = (await http.post(COMPLETIONS, json=body | {"ignore_eos": True})).json()
                theirs[name] = (answer["choices"][0]["text"], answer["model"])
    for name, folder in folders.items():
        await engine.load_adapter(name, folder)
        assert await say(engine, folder) == theirs[name]
        await engine.unload_adapter(folder)


async def test_a_new_version_leaves_running_requests_theirs(
    engine: Engine, tmp_path: Path, tiny_model_path: Path
) -> None:
    old, new = (make_adapter(tmp_path / f"v{seed}", tiny_model_path, seed) for seed in (1, 2))
    await engine.load_adapter("a", old)
    alone = await say(engine, old, 400)
    running = asyncio.create_task(say(engine, old, 400))
    await asyncio.sleep(0)
    await engine.load_adapter("a", new)
    after = await say(engine, new, 400)
    assert await running == alone
    assert after[1] == alone[1] == "a"
    assert after[0] != alone[0]
    for folder in (old, new):
        await engine.unload_adapter(folder)


def _truncate(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _no_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def _no_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")


@pytest.mark.parametrize(
    ("made", "then", "why"),
    [
        ({}, _truncate, "a part is missing"),
        ({}, _no_weights, r"has no adapter_model\.safetensors"),
        ({}, _no_config, "Expecting property name"),
        ({}, shutil.rmtree, r"has no adapter_model\.safetensors"),
        ({"rank": 16}, None, "rank 16 is greater than max_lora_rank 8"),
        ({"modules": ("no_such",)}, None, "no_such"),
        ({"hidden": 24}, None, "is for another model"),
        ({"use_dora": True}, None, "DoRA"),
        ({"fill": float("nan")}, None, "not made of numbers"),
    ],
    ids=["truncated", "no weights", "no config", "gone", "rank", "modules", "shape", "dora", "nan"],
)
async def test_a_broken_adapter_is_refused_and_hurts_nobody(
    engine: Engine,
    tmp_path: Path,
    tiny_model_path: Path,
    made: dict[str, Any],
    then: Callable[[Path], None] | None,
    why: str,
) -> None:
    folder = make_adapter(tmp_path / "v1", tiny_model_path, 1, **made)
    if then is not None:
        then(folder)
    alone = await say(engine, count=150)
    bystander = asyncio.create_task(say(engine, count=150))
    with pytest.raises(AdapterBrokenError, match=why) as raised:
        await engine.load_adapter("a", folder)
    assert str(tmp_path) not in str(raised.value)
    assert await bystander == alone
    assert engine.adapters() == frozenset()
    await engine.check()
    good = make_adapter(tmp_path / "good", tiny_model_path, 3)
    await engine.load_adapter("a", good)
    assert (await say(engine, good))[1] == "a"
    await engine.unload_adapter(good)


async def test_tokens_are_counted_for_an_adapter_that_is_not_loaded(engine: Engine) -> None:
    counts = [
        await engine.count(COMPLETIONS, json.dumps({"model": model, "prompt": "hello world"}).encode())
        for model in ("tiny-random", "elsewhere")
    ]
    assert counts[0] == counts[1] is not None
