"""LangChain's ChatOpenAI over chat and over Responses, and its ChatAnthropic."""

from __future__ import annotations

import os
from typing import Literal

from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

URL, MODEL, KEY = os.environ["PENSTOCK_URL"], os.environ["PENSTOCK_MODEL"], SecretStr("none")


def weather(city: Literal["Oslo", "Rome"]) -> str:
    """Tell the weather of a city."""
    return city


def use(model: BaseChatModel, *, tools: bool = True) -> None:
    """Invoke, stream, batch, and a forced tool."""
    answer = model.invoke("Hello")
    assert isinstance(answer, AIMessage)
    assert answer.text
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0
    whole: AIMessageChunk | None = None
    pieces = 0
    for chunk in model.stream([HumanMessage("Hello"), AIMessage("Yes?"), HumanMessage("Well")]):
        assert isinstance(chunk, AIMessageChunk)
        pieces += 1
        whole = chunk if whole is None else whole + chunk
    assert pieces > 2
    assert whole is not None
    assert whole.text
    assert whole.usage_metadata is not None
    assert len(model.batch(["one", "two", "three"])) == 3
    if tools:
        called = model.bind_tools([weather], tool_choice="weather", strict=True).invoke("Hello")
        assert isinstance(called, AIMessage)
        (call,) = called.tool_calls
        assert call["name"] == "weather"
        assert call["args"]["city"] in {"Oslo", "Rome"}


chat = ChatOpenAI(base_url=f"{URL}/v1", api_key=KEY, model=MODEL, max_retries=0, stream_usage=True)
use(chat.model_copy(update={"max_tokens": 64}))
responses = ChatOpenAI(
    base_url=f"{URL}/v1",
    api_key=KEY,
    model=MODEL,
    max_retries=0,
    use_responses_api=True,
    output_version="responses/v1",
)
use(responses.model_copy(update={"max_tokens": 64}))
first = responses.invoke("Hello")
assert isinstance(first, AIMessage)
second = responses.bind(previous_response_id=first.response_metadata["id"]).invoke("And then?")
assert isinstance(second, AIMessage)
assert second.usage_metadata is not None
assert first.usage_metadata is not None
assert second.usage_metadata["input_tokens"] > first.usage_metadata["input_tokens"]
messages = ChatAnthropic(
    base_url=URL, api_key=KEY, model_name=MODEL, max_tokens_to_sample=64, max_retries=0, timeout=60, stop=None
)
use(messages, tools=False)  # the tiny model's arguments need not be an object, and vLLM refuses those
print("langchain: passed")
