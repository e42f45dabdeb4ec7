"""Learning what an OpenAI-compatible server does with ``priority``, a field that OpenAI's own API does not have.

Servers differ. vLLM takes any integer, the smallest first, but only with ``--scheduling-policy=priority``; otherwise it
ignores the number without a word. SGLang takes integers too, the largest first unless it was told otherwise, and may
refuse them with 503. OpenAI and Mistral refuse unknown fields; llama.cpp and Ollama ignore them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import aiohttp
import msgspec

from jobs.endpoints import CHAT, COMPLETIONS, EMBEDDINGS
from jobs.facts import EnginePriority

Ask: TypeAlias = Callable[[str, dict[str, Any] | None], Awaitable[tuple[int, bytes]]]
"""Sends a request to a path, a POST if there is a body; returns status and body of the answer."""

PROBE_S = 3.0
"""Seconds for the requests of the probe. A server that takes longer, such as one that loads a model, is ``unknown``."""

FACTS_S = 10.0
"""Seconds for a server to tell its configuration. vLLM looks at its whole environment first."""

PROBE_ID = "priority-probe"
"""The ``X-Request-Id`` of the probe's requests."""

_SHORTEST: tuple[tuple[str, dict[str, Any]], ...] = (
    (CHAT, {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}),
    (COMPLETIONS, {"prompt": "Hi", "max_tokens": 1}),
    (EMBEDDINGS, {"input": "Hi"}),
)

_FACTS = ("/server_info?config_format=json", "/get_server_info")
"""Where a server tells its configuration: SGLang, and vLLM with ``VLLM_SERVER_DEV_MODE=1``."""

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class PriorityField:
    """How a server is given priorities.

    Attributes:
        state: what they do there.
        largest_first: it runs the largest number first.
    """

    state: EnginePriority = EnginePriority.UNKNOWN
    largest_first: bool = False

    def value(self, priority: int) -> int | None:
        """Return the number for the body; None: send no such field."""
        if self.state is EnginePriority.REFUSED:
            return None
        return -priority if self.largest_first else priority


def blames_priority(status: int, body: bytes) -> bool:
    """Return whether an answer may be a refusal of the field ``priority``: it may also quote the client's own words."""
    if (
        status == 503
    ):  # SGLang; its other 503, "aborted by a higher priority request", is no refusal of the field
        return b"priority is disabled" in body
    return status in {400, 403, 422} and re.search(rb"\bpriority\b", body) is not None


async def learn_field(ask: Ask, model: str, endpoints: Iterable[str]) -> PriorityField:
    """Ask a server what it does with priorities: a few requests, of one token at most each. Never raises for the server.

    Args:
        model: one that it serves.
        endpoints: those of the model.
    """
    try:
        async with asyncio.timeout(PROBE_S):
            state = await _behaviour(ask, model, set(endpoints))
        if state is None:
            async with asyncio.timeout(FACTS_S):
                return await _declared(ask)
    except (aiohttp.ClientError, OSError, TimeoutError):
        return PriorityField()
    return PriorityField(state)


async def _behaviour(ask: Ask, model: str, endpoints: set[str]) -> EnginePriority | None:
    """Return what the server's answers show; None: it takes priorities, whatever it does with them."""
    for path, shortest in _SHORTEST:
        if path not in endpoints:
            continue
        body = {"model": model, **shortest}
        status, answer = await ask(path, {**body, "priority": "none"})
        if status == 200:  # a server that reads the field would refuse a word
            return EnginePriority.IGNORED
        if blames_priority(status, answer):
            status, answer = await ask(path, {**body, "priority": 1})
            return EnginePriority.REFUSED if blames_priority(status, answer) else None
        # The model cannot do this endpoint, or the server refuses something else.
    return EnginePriority.UNKNOWN


async def _declared(ask: Ask) -> PriorityField:
    for path in _FACTS:
        status, answer = await ask(path, None)
        if status == 200 and (field := read_facts(answer)) is not None:
            return field
    return PriorityField()


def read_facts(answer: bytes) -> PriorityField | None:
    """Read a server's configuration; None: it does not speak of priorities."""
    try:
        facts = _decode(answer)
    except msgspec.DecodeError:
        return None
    if not isinstance(facts, dict):
        return None
    if isinstance(enabled := facts.get("enable_priority_scheduling"), bool):  # SGLang
        state = EnginePriority.WORKS if enabled else EnginePriority.IGNORED
        return PriorityField(state, enabled and not facts.get("schedule_low_priority_values_first"))
    policy: Any = facts
    for name in ("vllm_config", "scheduler_config", "policy"):
        policy = policy.get(name) if isinstance(policy, dict) else None
    if not isinstance(policy, str):
        return None
    return PriorityField(EnginePriority.WORKS if policy == "priority" else EnginePriority.IGNORED)
