"""One request for each ability of a model, before clients may send any. Imports no vLLM.

An engine may start and die of the first request: its build lacks code for the size of the model's heads, for the weights'
type, or for an option. Then it dies here, at its start, and the operator is told of which ability.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import structlog

from jobs.capabilities import Capabilities
from jobs.endpoints import CHAT, CLASSIFY, COMPLETIONS, EMBEDDINGS, POOLING, SCORE
from workers.engines.base import Engine, EngineDeadError, EngineRequest

log = structlog.get_logger(__name__)


class Probe(NamedTuple):
    """A request for one ability. ``ability``: how the log and errors name it."""

    ability: str
    endpoint: str
    body: dict[str, Any]


class AbilityError(Exception):
    """The engine died of a probe. The message says of which ability."""


STRUCTURED = "structured output"
_SAY = {"prompt": "Hello", "max_tokens": 2}
_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
_SAMPLED = {"temperature": 0.8, "top_k": 5, "top_p": 0.9, "seed": 1, "presence_penalty": 0.1, "logprobs": 1}
_OTHERS = (
    Probe("embeddings", EMBEDDINGS, {"input": "Hello"}),
    Probe("scores", SCORE, {"text_1": "Hello", "text_2": "Hello there"}),
    Probe("classes", CLASSIFY, {"input": "Hello"}),
    Probe("pooling", POOLING, {"input": "Hello"}),
)


async def try_abilities(engine: Engine, endpoints: Collection[str], able: Capabilities) -> frozenset[str]:
    """Ask for each ability once.

    Args:
        engine: runs the probes. It is a started one that has learned its streams, so it has answered greedy requests.
        endpoints: those that the model does.
        able: what its configuration says that it can do.

    Returns:
        The abilities that the engine refused, each with a warning in the log. It serves everything else.

    Raises:
        AbilityError: the engine died.
    """
    refused = set()
    for ability, endpoint, body in probes(endpoints, able):
        try:
            request = EngineRequest("ability-probe", endpoint, json.dumps(body).encode())
            final = await engine.run(request, lambda _: None)
        except EngineDeadError as error:
            msg = f"the model loads, but the engine dies of a request for {ability} ({endpoint})"
            raise AbilityError(msg) from error
        if final.status != 200:
            refused.add(ability)
            said = final.body[:200].decode(errors="replace")
            log.warning("ability_refused", ability=ability, endpoint=endpoint, status=final.status, said=said)
    return frozenset(refused)


def probes(endpoints: Collection[str], able: Capabilities) -> Iterator[Probe]:
    """Yield the probes for a model."""
    if COMPLETIONS in endpoints:
        yield Probe("sampling", COMPLETIONS, _SAY | _SAMPLED)
        if able.structured_output:
            yield Probe(STRUCTURED, COMPLETIONS, {**_SAY, "structured_outputs": {"json": _SCHEMA}})
    if CHAT in endpoints and able.images:
        parts = [{"type": "text", "text": "Hello"}, {"type": "image_url", "image_url": {"url": _image()}}]
        messages = [{"role": "user", "content": parts}]
        yield Probe("images", CHAT, {"messages": messages, "max_tokens": 1})
    yield from (one for one in _OTHERS if one.endpoint in endpoints)


def _image() -> str:
    """Return a small image as a data URI."""
    from PIL import Image  # vLLM's own dependency

    data = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 150)).save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
