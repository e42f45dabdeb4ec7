"""LoRA adapters through the whole stack with vLLM: two workers, calls, streams, jobs and batches; churn."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

import penstock
from tests.batching import create, ended, lines, row
from tests.e2e.engines import QUICK_ENV, QUICK_FLAGS
from tests.e2e.stacks import Stack, start_stack, stop_stack
from tests.support import eventually
from tests.tiny_adapters import make_adapter

MODEL = "tiny-random"
HI: Any = [{"role": "user", "content": "hello world"}]

pytestmark = [pytest.mark.full, pytest.mark.asyncio, pytest.mark.xdist_group("vllm")]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`penstock up` with two workers, each of which takes four adapters in a batch and holds eight."""
    started = start_stack(
        tmp_path_factory.mktemp("adapter-stack"),
        "--no-flower",
        "--workers=2",
        *(f"--engine-arg={flag}" for flag in QUICK_FLAGS),
        timeout_s=300,
        **QUICK_ENV,
        PENSTOCK_ADAPTERS_MAX="4",
        PENSTOCK_ADAPTER_MAX_RANK="8",
    )
    yield started
    stop_stack(started)


@pytest.fixture
def client(stack: Stack) -> Iterator[penstock.Penstock]:
    with penstock.Penstock(stack.url) as made:
        yield made
        for adapter in made.adapters.list():
            made.adapters.remove(adapter.name)


@pytest.fixture
def tiny(stack: Stack) -> Path:
    """The folder of the model."""
    (found,) = (stack.data_dir / "models").glob("tiny-random-*")
    return found


async def chat(openai: AsyncOpenAI, model: str, tokens: int = 12) -> str:
    answer = await openai.chat.completions.create(model=model, messages=HI, max_tokens=tokens, temperature=0)
    assert answer.model == model
    return answer.choices[0].message.content or ""


async def test_adapters_answer_by_name_everywhere(
    stack: Stack, client: penstock.Penstock, tiny: Path, tmp_path: Path
) -> None:
    for seed, name in enumerate(("team/a", "b"), 1):
        folder = make_adapter(tmp_path / name, tiny, seed)
        client.adapters.add(name, str(folder), any_base=True)
        shutil.rmtree(folder)  # what the operator does with it is nothing to the engine
    async with AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as openai:
        texts = {name: await chat(openai, name) for name in (MODEL, "team/a", "b")}
        assert len(set(texts.values())) == 3

        async def listed() -> bool:
            cards = {card.id: card for card in (await openai.models.list()).data}
            return cards.keys() >= {"team/a", "b"}

        await eventually(listed)
        at_once = await asyncio.gather(*(chat(openai, name) for name in texts for _ in range(6)))
        assert set(at_once) == set(texts.values())
        stream = await openai.chat.completions.create(
            model="b",
            messages=HI,
            max_tokens=12,
            temperature=0,
            stream=True,
        )
        parts = [chunk async for chunk in stream]
        assert {part.model for part in parts} == {"b"}
        assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == texts["b"]
        rows = [row(n, model="team/a", max_tokens=4, temperature=0) for n in range(20)]
        batch = await ended(openai, (await create(openai, rows)).id, 60)
        assert (batch.status, batch.request_counts.completed) == ("completed", 20)
        done = await lines(openai, batch.output_file_id)
        assert {one["response"]["body"]["model"] for one in done} == {"team/a"}
    assert "died" not in stack.output.read_text()


async def test_churn_of_fifty_adapters_in_eight_places(
    stack: Stack, client: penstock.Penstock, tiny: Path, tmp_path: Path
) -> None:
    """Nobody fails, no answer is another adapter's, and adapters are replaced and removed meanwhile."""
    names = [f"a{number}" for number in range(50)]
    for number, name in enumerate(names):
        client.adapters.add(name, str(make_adapter(tmp_path / name, tiny, number)), any_base=True)
    victims, kept = names[:5], names[5:]
    chance, texts = random.Random(1), dict[str, set[str]]()
    async with AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=120) as openai:

        async def caller() -> None:
            for name in chance.choices([*kept, MODEL], k=25):
                texts.setdefault(name, set()).add(await chat(openai, name, 8))

        async def operator() -> None:
            for number, name in enumerate(victims):
                other = str(make_adapter(tmp_path / f"other-{name}", tiny, 100 + number))
                await asyncio.to_thread(client.adapters.add, name, other, any_base=True)
                await asyncio.to_thread(client.adapters.remove, names[number])

        await asyncio.gather(operator(), *(caller() for _ in range(10)))
    assert len(texts) > 40
    assert {name: len(said) for name, said in texts.items()} == dict.fromkeys(texts, 1)
    workers = httpx.get(f"{stack.url}/v1/workers").json()["data"]
    assert len(workers) == 2
    assert all(0 < len(worker["adapters"]) <= 8 for worker in workers), json.dumps(workers)
