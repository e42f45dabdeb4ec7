"""What generates no text, by the ``vllm`` engine: equal to the answers of vLLM's own server, and in its shapes elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio

from jobs.answers import json_or_failure
from jobs.endpoints import ENDPOINTS
from tests.e2e.engines import QUICK_FLAGS
from tests.e2e.vllm_servers import Frontend
from workers.devices.tiny_models import TINY_MODELS, build_tiny_model
from workers.engines.base import Engine, EngineRequest, Final
from workers.engines.counting import prompt_overhead
from workers.engines.factory import make_engine
from workers.engines.settings import SimulatedSettings, VllmSettings

RERANK, SCORE, CLASSIFY, POOLING = "/v1/rerank", "/v1/score", "/v1/classify", "/v1/pooling"
TOKENIZE, DETOKENIZE, MESSAGES, COUNT = (
    "/tokenize",
    "/detokenize",
    "/v1/messages",
    "/v1/messages/count_tokens",
)
TEXTS = ["The river flows.", "A stone dam", "winter market", "日本 é"]
SAY = {"messages": [{"role": "user", "content": "Tell me a story"}], "system": "Be brief."}
TOOL = {"name": "gate", "input_schema": {"type": "object", "properties": {"open": {"type": "boolean"}}}}

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


class Served(NamedTuple):
    """An engine, and vLLM's own HTTP app over it."""

    engine: Engine
    theirs: httpx.AsyncClient
    model: str


async def run_model(settings: VllmSettings) -> AsyncIterator[Served]:
    engine = make_engine(settings)
    await engine.start()
    try:
        async with Frontend(engine, settings) as front, httpx.AsyncClient(base_url=front.url) as client:
            yield Served(engine, client, settings.served_model_name[0])
    finally:
        await engine.stop()


@pytest.fixture(scope="module")
def pooling_settings(
    vllm_settings: VllmSettings, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, VllmSettings]:
    """How the tiny models that rank and classify run; ``vllm_settings`` sets the environment."""
    folder: Path = tmp_path_factory.mktemp("models")
    return {
        name: VllmSettings.tiny(
            build_tiny_model(folder, TINY_MODELS[name]), name=name, max_num_seqs=16, extra_args=QUICK_FLAGS
        )
        for name in ("tiny-rerank", "tiny-classify")
    }


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def reranker(pooling_settings: dict[str, VllmSettings]) -> AsyncIterator[Served]:
    async for served in run_model(pooling_settings["tiny-rerank"]):
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def classifier(pooling_settings: dict[str, VllmSettings]) -> AsyncIterator[Served]:
    async for served in run_model(pooling_settings["tiny-classify"]):
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def generator(vllm_engine: Engine, vllm_frontend: str) -> AsyncIterator[Served]:
    async with httpx.AsyncClient(base_url=vllm_frontend) as client:
        yield Served(vllm_engine, client, "tiny-random")


async def ask(engine: Engine, endpoint: str, body: dict[str, Any], ident: str = "job_1") -> Final:
    return await engine.run(EngineRequest(ident, endpoint, json.dumps(body).encode()), lambda _: None)


def normal(text: str) -> str:
    """Blank what differs from request to request."""
    text = re.sub(r"toolu_[0-9a-f]+|chatcmpl-tool-[0-9a-f]+|call_[0-9a-zA-Z]+", "call", text)
    return re.sub(r'"created":\d+', '"created":0', text)


async def equal(served: Served, endpoint: str, body: dict[str, Any], ident: str) -> Final:
    """Ask both sides, and fail if they differ."""
    body = {"model": served.model, **body}
    theirs = await served.theirs.post(
        ENDPOINTS[endpoint].served_at, json=body, headers={"X-Request-Id": ident}, timeout=60
    )
    ours = await ask(served.engine, endpoint, body, ident)
    assert ours.status == theirs.status_code
    expected = json_or_failure(theirs.status_code, theirs.content)[
        1
    ]  # OpenAI's type and code, as of every engine
    assert alike(*(json.loads(normal(text.decode())) for text in (ours.body, expected))), ours.body
    return ours


def alike(one: Any, other: Any) -> bool:
    """Return whether two values are equal, but for the last digits of numbers: those depend on what else is in the batch."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == (pytest.approx(other, abs=1e-5) if isinstance(other, float) else other))


RERANKED: dict[str, tuple[str, dict[str, Any]]] = {
    "rerank": (RERANK, {"query": "water", "documents": TEXTS}),
    "best": (RERANK, {"query": "water", "documents": TEXTS, "top_n": 2}),
    "one document": (RERANK, {"query": "water", "documents": "The river"}),
    "truncated": (RERANK, {"query": "water", "documents": ["the " * 900], "truncate_prompt_tokens": 100}),
    "cut": (RERANK, {"query": "water", "documents": ["the " * 900], "max_tokens_per_doc": 100}),
    "without activation": (RERANK, {"query": "water", "documents": TEXTS, "use_activation": False}),
    "score": (SCORE, {"text_1": "water", "text_2": TEXTS}),
    "score pairs": (SCORE, {"queries": TEXTS, "documents": TEXTS[::-1]}),
    "score items": (SCORE, {"queries": "water", "items": TEXTS}),
    "score data": (SCORE, {"data_1": "water", "data_2": TEXTS[0]}),
    "one class": (CLASSIFY, {"input": TEXTS}),
    "pooling": (POOLING, {"input": TEXTS}),
    "tokens": (TOKENIZE, {"prompt": TEXTS[0], "return_token_strs": True}),
    "text": (DETOKENIZE, {"tokens": [500, 501, 502]}),
    "bad top_n": (RERANK, {"query": "water", "documents": TEXTS, "top_n": "many"}),
    "bad model": (RERANK, {"query": "water", "documents": TEXTS, "model": "other"}),
    "too long": (RERANK, {"query": "water", "documents": ["the " * 900]}),
    "bad pairs": (SCORE, {"text_1": TEXTS[:2], "text_2": TEXTS}),
    "bad task": (POOLING, {"input": TEXTS, "task": "token_classify"}),
}


@pytest.mark.parametrize("name", RERANKED)
async def test_a_reranker_answers_as_vllms_own_server(reranker: Served, name: str) -> None:
    endpoint, body = RERANKED[name]
    final = await equal(reranker, endpoint, body, f"job_{name.replace(' ', '_')}")
    answer = json.loads(final.body)
    if final.status == 200 and "usage" in answer:
        assert final.usage is not None
        assert final.usage.prompt_tokens == answer["usage"]["prompt_tokens"] > 0
        assert answer["id"] == ENDPOINTS[endpoint].response_id.format(f"job_{name.replace(' ', '_')}")


async def test_a_reranker_says_what_it_does(reranker: Served) -> None:
    (model,) = reranker.engine.models()
    assert model.endpoints == (RERANK, SCORE, CLASSIFY, POOLING, TOKENIZE, DETOKENIZE)
    assert await prompt_overhead(reranker.engine, model) == 3  # a token between its [CLS] and [SEP]
    body = json.dumps({"model": "tiny-rerank", "input": TEXTS}).encode()
    counted = [json.loads((await ask(reranker.engine, TOKENIZE, {"prompt": text})).body) for text in TEXTS]
    assert await reranker.engine.count(CLASSIFY, body) == max(one["count"] for one in counted)


async def test_a_thousand_documents_are_scored_as_few(reranker: Served) -> None:
    documents = [f"{TEXTS[n % 3]} {n}" for n in range(1000)]
    answer = json.loads((await ask(reranker.engine, RERANK, {"query": "water", "documents": documents})).body)
    assert len(answer["results"]) == 1000
    few = json.loads(
        (await ask(reranker.engine, RERANK, {"query": "water", "documents": documents[:3]})).body
    )
    scores = {one["index"]: one["relevance_score"] for one in answer["results"]}
    assert {one["index"]: one["relevance_score"] for one in few["results"]} == pytest.approx(
        {index: scores[index] for index in range(3)}, abs=1e-5
    )


@pytest.mark.full
@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (CLASSIFY, {"input": TEXTS}),
        (CLASSIFY, {"input": [[500, 501], [502]]}),
        (CLASSIFY, {"input": TEXTS[0], "use_activation": False}),
        (POOLING, {"input": TEXTS[0], "encoding_format": "base64"}),
        (CLASSIFY, {"input": "the " * 900}),
    ],
)
async def test_a_classifier_answers_as_vllms_own_server(
    classifier: Served, endpoint: str, body: dict[str, Any]
) -> None:
    (model,) = classifier.engine.models()
    assert model.endpoints == (CLASSIFY, POOLING, TOKENIZE, DETOKENIZE)
    await equal(classifier, endpoint, body, "job_1")


GENERATED: dict[str, tuple[str, dict[str, Any]]] = {
    "messages": (MESSAGES, {**SAY, "max_tokens": 8}),
    "stopped": (MESSAGES, {**SAY, "max_tokens": 40, "stop_sequences": ["e"]}),
    "blocks": (
        MESSAGES,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "max_tokens": 4},
    ),
    "turns": (
        MESSAGES,
        {
            "messages": [
                *SAY["messages"],
                {"role": "assistant", "content": "Once"},
                {"role": "user", "content": "go on"},
            ],
            "max_tokens": 4,
        },
    ),
    "forced tool": (
        MESSAGES,
        {**SAY, "max_tokens": 60, "tools": [TOOL], "tool_choice": {"type": "tool", "name": "gate"}},
    ),
    "count": (COUNT, SAY),
    "count tools": (COUNT, {**SAY, "tools": [TOOL]}),
    "tokens": (TOKENIZE, {"prompt": TEXTS[3], "return_token_strs": True}),
    "tokens of a chat": (TOKENIZE, {"messages": SAY["messages"]}),
    "tokens of a long text": (TOKENIZE, {"prompt": "the " * 9000}),
    "text": (DETOKENIZE, {"tokens": [500, 501, 502]}),
    "bad max_tokens": (MESSAGES, {**SAY, "max_tokens": 0}),
    "bad role": (MESSAGES, {"messages": [{"role": "x", "content": "y"}], "max_tokens": 4}),
    "bad model": (MESSAGES, {**SAY, "max_tokens": 4, "model": "other"}),
    "too long": (MESSAGES, {"messages": [{"role": "user", "content": "word " * 9000}], "max_tokens": 4}),
    "bad token": (DETOKENIZE, {"tokens": [10**9]}),
}


@pytest.mark.parametrize("name", GENERATED)
async def test_a_generating_model_answers_as_vllms_own_server(generator: Served, name: str) -> None:
    endpoint, body = GENERATED[name]
    temperature = {"temperature": 0} if endpoint == MESSAGES else {}
    await equal(generator, endpoint, {**temperature, **body}, f"job_{name.replace(' ', '_')}")


async def test_a_generating_model_counts_anthropics_prompts(generator: Served) -> None:
    (model,) = generator.engine.models()
    assert {MESSAGES, COUNT, TOKENIZE, DETOKENIZE} <= set(model.endpoints)
    assert not {RERANK, SCORE, CLASSIFY} & set(model.endpoints)
    body = {"model": generator.model, **SAY, "max_tokens": 4}
    answer = json.loads((await ask(generator.engine, MESSAGES, body)).body)
    counted = await generator.engine.count(MESSAGES, json.dumps(body).encode())
    assert counted == answer["usage"]["input_tokens"] > 8


async def test_the_simulated_engine_has_vllms_shapes(reranker: Served, generator: Served) -> None:
    engine = make_engine(SimulatedSettings(model="simulated"))
    await engine.start()
    asked = {
        "rerank": reranker,
        "score": reranker,
        "pooling": reranker,
        "one class": reranker,
    } | dict.fromkeys(("count", "tokens", "tokens of a chat", "text"), generator)
    for name, served in asked.items():
        endpoint, body = (RERANKED if served is reranker else GENERATED)[name]
        real = await ask(served.engine, endpoint, {"model": served.model, **body})
        made = await ask(engine, endpoint, {"model": "simulated", **body})
        assert shape(json.loads(made.body)) == shape(json.loads(real.body)), name
        assert (made.usage is None) == (real.usage is None), name
    await engine.stop()


def shape(value: Any) -> Any:
    """Return a value's form: names and types, of a list its first item's."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__
