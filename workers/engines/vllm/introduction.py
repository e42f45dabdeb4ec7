"""What a started engine says of itself: its models with their endpoints and capabilities. Tiny requests learn the rest."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import msgspec

from jobs.capabilities import Capabilities
from jobs.endpoints import CHAT, COMPLETIONS
from jobs.facts import EnginePriority
from workers.engines.base import Engine, ModelInfo
from workers.engines.counting import context_length
from workers.engines.settings import VllmSettings
from workers.engines.vllm import wire
from workers.engines.vllm.abilities import capabilities
from workers.engines.vllm.compact_streams import ChatStreams, CompactStreams, chats_stream
from workers.engines.vllm.inner_app import Headers, call_app
from workers.engines.vllm.priority_probe import seen_priority
from workers.engines.vllm.probe import learn
from workers.engines.vllm.probes import STRUCTURED, try_abilities
from workers.engines.vllm.served import BESIDE_CHAT, OTHERS, served


class Started(NamedTuple):
    """vLLM as it was started: its engine client, its parsed flags, its app, and the tasks that its model supports."""

    llm: Any
    args: Any
    app: Any
    tasks: tuple[str, ...]


class Introduction(NamedTuple):
    """What was learned: the models, and whether the priority of a request takes effect."""

    models: tuple[ModelInfo, ...]
    priority: EnginePriority


async def introduce(
    engine: Engine, started: Started, settings: VllmSettings, compact: CompactStreams, auth: Headers
) -> Introduction:
    """Ask the app for its models, and learn its chunks.

    Args:
        engine: runs the probes.
        started: the parts of vLLM behind it.
        settings: the engine's.
        compact: gets the forms of chunks.
        auth: headers that vLLM's app asks for.
    """
    llm, _, app, tasks = started
    endpoints: tuple[str, ...] = ()
    if "generate" in tasks:
        wanted = settings.compact_streams
        way = chats_stream(app, llm.model_config, compact.taps) if wanted else ChatStreams.WHOLE
        parsed, compactly = way is ChatStreams.PARSED, way is not ChatStreams.WHOLE
        chat = await learn(engine, CHAT, compact.shapes, compact=compactly, parsed=parsed)
        await learn(engine, COMPLETIONS, compact.shapes, compact=wanted)
        endpoints = (CHAT, COMPLETIONS) if chat else (COMPLETIONS,)
        endpoints += served(app, BESIDE_CHAT) if chat else ()
    endpoints += served(app, OTHERS)
    priority = await seen_priority(llm, engine.run, endpoints)
    able = await asyncio.to_thread(capabilities, llm.vllm_config, started.args, tasks, llm.renderer)
    if settings.paced is None and STRUCTURED in await try_abilities(engine, endpoints, able):
        able = msgspec.structs.replace(able, structured_output=False)
    _, body = await call_app(app, "GET", "/v1/models", headers=auth)
    return Introduction(_models(started, settings, endpoints, able, body), priority)


def _models(
    started: Started,
    settings: VllmSettings,
    endpoints: tuple[str, ...],
    able: Capabilities,
    listed: bytes,
) -> tuple[ModelInfo, ...]:
    """Return the record of each model that the app lists: ``listed`` is its answer to ``GET /v1/models``."""
    llm = started.llm
    config, token_bytes = llm.model_config, wire.max_token_bytes(llm.tokenizer)
    limit, output = context_length(config), config.max_model_len
    claims = {} if settings.paced is None else {"penstock": {"paced": settings.paced.card()}}
    return tuple(
        ModelInfo(
            card["id"],
            card | claims,
            endpoints,
            limit,
            token_bytes,
            output,
            msgspec.structs.replace(able, adapter_of=card.get("parent")),
        )
        for card in msgspec.json.decode(listed)["data"]
    )
