"""Pydantic AI over chat, Responses and Messages."""

from __future__ import annotations

import asyncio
import os

from pydantic_ai import Agent
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

URL, MODEL = os.environ["PENSTOCK_URL"], os.environ["PENSTOCK_MODEL"]


async def use(model: Model) -> None:
    """Run, go on with the conversation, and stream."""
    agent = Agent(model, instructions="be brief", model_settings={"max_tokens": 64}, retries=0)
    first = await agent.run("Hello")
    assert isinstance(first.output, str)
    assert first.output
    assert first.usage.output_tokens > 0
    second = await agent.run("And then?", message_history=first.all_messages())
    assert second.output
    async with agent.run_stream("Hello") as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
        whole = await stream.get_output()
    assert len(pieces) > 1
    assert "".join(pieces) == whole
    assert stream.usage.output_tokens > 0


async def main() -> None:
    """Each kind of model."""
    openai = OpenAIProvider(base_url=f"{URL}/v1", api_key="none")
    await use(OpenAIChatModel(MODEL, provider=openai))
    await use(OpenAIResponsesModel(MODEL, provider=openai))
    await use(AnthropicModel(MODEL, provider=AnthropicProvider(base_url=URL, api_key="none")))


asyncio.run(main())
print("pydantic-ai: passed")
