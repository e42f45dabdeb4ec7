"""What a new user sees first: the answers of the model that is served when none is named."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from workers.devices.tiny_tokenizer import WORDS
from workers.engines.base import Engine, EngineRequest

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


async def choices(engine: Engine, endpoint: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    requests = [
        EngineRequest(f"job_{n}", endpoint, json.dumps(body).encode()) for n, body in enumerate(bodies)
    ]
    finals = await asyncio.gather(*(engine.run(request, lambda _: None) for request in requests))
    answers = [json.loads(final.body) for final in finals]
    return [answer["choices"][0] | {"tokens": answer["usage"]["completion_tokens"]} for answer in answers]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_answers_are_sentences_of_words_and_end_by_themselves(
    vllm_engine: Engine, temperature: float
) -> None:
    asked = [{"role": "user", "content": f"Question {n}: why is the sky blue?"} for n in range(32)]
    bodies = [{"messages": [one], "temperature": temperature, "seed": n} for n, one in enumerate(asked)]
    answers = await choices(vllm_engine, CHAT, bodies)
    assert {answer["finish_reason"] for answer in answers} == {"stop"}
    lengths = sorted(answer["tokens"] for answer in answers)
    assert 15 < lengths[16] < 100, lengths
    assert lengths[-1] < 1000, lengths
    assert len(set(lengths)) > 12, lengths
    for text in (answer["message"]["content"] for answer in answers):
        assert re.fullmatch(r"[A-Z][a-z]*( [a-z]+)*\.( [A-Z][a-z]*( [a-z]+)*\.)*", text), text
        words = re.findall(r"[a-z]+", text.lower())
        assert set(words) <= set(WORDS)


async def test_a_completion_goes_on_in_words(vllm_engine: Engine) -> None:
    bodies = [{"prompt": f"The {word} turns the", "max_tokens": 400, "temperature": 0} for word in WORDS[:16]]
    answers = await choices(vllm_engine, COMPLETIONS, bodies)
    assert [answer["finish_reason"] for answer in answers].count("stop") >= 14
    assert all(re.match(r" [a-z]+", answer["text"]) for answer in answers)


async def test_the_same_question_has_the_same_answer(vllm_engine: Engine) -> None:
    body = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "temperature": 0}
    texts = [answer["message"]["content"] for answer in await choices(vllm_engine, CHAT, [body] * 8)]
    assert texts == [texts[0]] * 8
