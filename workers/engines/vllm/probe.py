"""Learning the form of the server's own streams at engine start: tiny probe requests, and a check of the result."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

import structlog

from jobs.stream_chunks import Chunk, Frames, Head, Text
from workers.engines.base import Engine, EngineRequest
from workers.engines.vllm.compact import Shapes

log = structlog.get_logger(__name__)

_PROMPTS = ("Hello", "1, 2, 3,", "Once upon a time") * 3
"""Several, as a model may end one at once; three times, as a busy machine merges tokens that should come one by one."""
_TOKENS = 6


async def learn(
    engine: Engine,
    path: str,
    shapes: MutableMapping[tuple[str, bool], Shapes],
    *,
    compact: bool,
    parsed: bool = False,
) -> bool:
    """Probe one endpoint, and teach the engine its chunks.

    Args:
        engine: a started engine that streams compactly wherever ``shapes`` has the endpoint.
        path: a generating endpoint.
        shapes: gets an entry for (path, with usage chunk) if its form was learned and checked. Without an entry, requests
            are streamed by the server's own chunks.
        compact: learn at all; otherwise only see whether the endpoint works.
        parsed: a parser of the engine's reads the texts, so that the deltas differ.

    Returns:
        Whether the endpoint answers at all (a chat endpoint does not where the model has no chat template).
    """
    served = False
    for prompt in _PROMPTS:
        body = _body(path, prompt)
        final = await engine.run(_request(path, {**body, "return_token_ids": True}), _ignore)
        if final.status != 200:
            continue
        served = True
        choice = json.loads(final.body)["choices"][0]
        if not compact or not choice.get("token_ids"):
            break
        stopped = {**body, "stop_token_ids": choice["token_ids"][:1]}
        for usage in _missing(path, shapes):
            await _learn_one(engine, path, shapes, (body, stopped), usage=usage, parsed=parsed)
        if not _missing(path, shapes):
            break
    if served and compact and _missing(path, shapes):
        log.warning("stream_form_not_learned", endpoint=path)
    return served


def _missing(path: str, shapes: MutableMapping[tuple[str, bool], Shapes]) -> list[bool]:
    """Return for which forms of the endpoint's streams, without and with the usage chunk, there is no entry."""
    return [usage for usage in (False, True) if (path, usage) not in shapes]


async def _learn_one(
    engine: Engine,
    path: str,
    shapes: MutableMapping[tuple[str, bool], Shapes],
    bodies: tuple[dict[str, Any], dict[str, Any]],
    *,
    usage: bool,
    parsed: bool,
) -> None:
    asked = [{**body, "stream_options": {"include_usage": True}} if usage else body for body in bodies]
    probes = [await _stream(engine, path, body) for body in asked]
    try:
        lesson = Shapes("chat" in path, probes, usage=usage, parsed=parsed)
    except (ValueError, LookupError, TypeError):
        return
    shapes[path, usage] = lesson
    for body, probe in zip(asked, probes, strict=True):
        if _essence(await _stream(engine, path, body)) != _essence(probe):
            del shapes[path, usage]
            return


def _body(path: str, prompt: str) -> dict[str, Any]:
    start = {"messages": [{"role": "user", "content": prompt}]} if "chat" in path else {"prompt": prompt}
    return {**start, "max_tokens": _TOKENS, "temperature": 0, "ignore_eos": True}


def _request(path: str, body: dict[str, Any], *, stream: bool = False) -> EngineRequest:
    return EngineRequest("probe", path, json.dumps(body).encode(), stream=stream)


def _ignore(chunk: Chunk) -> None:
    pass


async def _stream(engine: Engine, path: str, body: dict[str, Any]) -> list[str]:
    chunks: list[Chunk] = []
    await engine.run(_request(path, body, stream=True), chunks.append)
    return render(chunks)


def render(chunks: list[Chunk]) -> list[str]:
    """Return the frames that a client would see, in order."""
    frames: list[str] = []
    head = Head((), "", "")
    for chunk in chunks:
        if isinstance(chunk, Head):
            head = chunk
            frames += chunk.first
        elif isinstance(chunk, Frames):
            frames += chunk.frames
        elif isinstance(chunk, Text):
            pre, post = (head.reasoning if chunk.reasoning else None) or (head.pre, head.post)
            frames.append(pre + json.dumps(chunk.text, ensure_ascii=False) + post)
    return frames


def _essence(frames: list[str]) -> list[str]:
    """Return the frames without the parts that differ from request to request."""
    out = []
    for frame in frames:
        tree = json.loads(frame)
        out.append(json.dumps({**tree, "created": 0}))
    return out
