"""The simulated engine where it generates no text. That its shapes are vLLM's, tests/e2e sees."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workers.engines.base import EngineRequest, Final
from workers.engines.settings import SimulatedSettings
from workers.engines.simulated.engine import SimulatedEngine

pytestmark = pytest.mark.asyncio


async def run(endpoint: str, *, seed: int = 0, **body: Any) -> Final:
    engine = SimulatedEngine(SimulatedSettings(seed=seed, max_model_len=100))
    await engine.start()
    return await engine.run(EngineRequest("job_1", endpoint, json.dumps(body).encode()), lambda _: None)


async def ask(endpoint: str, **body: Any) -> dict[str, Any]:
    final = await run(endpoint, **body)
    assert final.status == 200, final.body
    answer: dict[str, Any] = json.loads(final.body)
    if "usage" in answer:
        assert final.usage is not None
        assert final.usage.prompt_tokens == answer["usage"]["prompt_tokens"] > 0
    else:
        assert final.usage is None
    return answer


async def test_documents_are_ranked_by_their_scores() -> None:
    documents = ["the river", "a dam", "a market", "a wheel"]
    answer = await ask("/v1/rerank", query="water", documents=documents)
    results = answer["results"]
    assert answer["id"] == "score-job_1"
    assert [one["relevance_score"] for one in results] == sorted(
        (one["relevance_score"] for one in results), reverse=True
    )
    assert {one["index"]: one["document"]["text"] for one in results} == dict(enumerate(documents))
    best = await ask("/v1/rerank", query="water", documents=documents, top_n=2)
    assert best["results"] == results[:2]
    scores = (await ask("/v1/score", text_1="water", text_2=documents))["data"]
    by_index = sorted(results, key=lambda one: one["index"])
    assert [one["score"] for one in scores] == [one["relevance_score"] for one in by_index]


async def test_texts_meet_one_by_one_or_one_meets_all() -> None:
    both = (await ask("/v1/score", queries=["a", "b"], documents=["x", "y"]))["data"]
    alone = (await ask("/v1/score", data_1="b", data_2="y"))["data"]
    assert [one["index"] for one in both] == [0, 1]
    assert both[1]["score"] == alone[0]["score"]
    wrong = await run("/v1/score", text_1=["a", "b"], text_2=["x", "y", "z"])
    assert (wrong.status, "lengths" in wrong.body.decode()) == (400, True)


async def test_a_class_is_the_likeliest() -> None:
    (one, other) = (await ask("/v1/classify", input=["rain", "sun"]))["data"]
    assert one["num_classes"] == len(one["probs"]) == 3
    assert sum(one["probs"]) == pytest.approx(1.0)
    assert one["probs"] != other["probs"]
    assert one == (await ask("/v1/classify", input="rain"))["data"][0]


async def test_a_pooled_vector_is_the_embedding() -> None:
    pooled = (await ask("/v1/pooling", input="rain"))["data"][0]
    embedded = (await ask("/v1/embeddings", input="rain"))["data"][0]
    assert (pooled["object"], pooled["data"]) == ("pooling", embedded["embedding"])


@pytest.mark.parametrize("text", ["", "rain", "Zürich 東京 🙂", "\0\0\0\0rain"])
async def test_tokens_give_their_text_again(text: str) -> None:
    told = await ask("/tokenize", prompt=text, return_token_strs=True)
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"]) == -(-len(text.encode()) // 4)
    assert await ask("/detokenize", tokens=told["tokens"]) == {"prompt": text}


async def test_anthropics_count_has_the_system_prompt() -> None:
    said = [{"role": "user", "content": "rain"}]
    short = await ask("/v1/messages/count_tokens", messages=said)
    long = await ask("/v1/messages/count_tokens", messages=said, system="be brief " * 9)
    assert short["input_tokens"] < long["input_tokens"] == long["context_management"]["original_input_tokens"]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/rerank", {"query": "q", "documents": []}),
        ("/v1/rerank", {"query": "q", "documents": ["d" * 1000]}),
        ("/v1/score", {"text_1": "q"}),
        ("/v1/classify", {"input": []}),
        ("/v1/pooling", {}),
        ("/detokenize", {"tokens": [-1]}),
    ],
)
async def test_a_wrong_request_is_refused(endpoint: str, body: dict[str, Any]) -> None:
    final = await run(endpoint, **body)
    assert (final.status, final.usage) == (400, None)
    assert json.loads(final.body)["error"]["type"] == "BadRequestError"


async def test_other_seeds_give_other_scores() -> None:
    bodies = [(await run("/v1/rerank", seed=seed, query="q", documents=["d"])).body for seed in (0, 1)]
    assert bodies[0] != bodies[1]
