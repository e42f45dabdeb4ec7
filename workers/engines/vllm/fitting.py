"""Measuring an engine's steps, to fit a pace to it: batches that only decode, prompts alone, prompts beside decodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from workers.engines.base import Engine, EngineRequest, EngineStartError
from workers.engines.vllm.step_cost import Sample

_STEPS = 24
"""Decoding steps of each batch size."""

_REPEATS = 3
_PROMPTS = (64, 128, 256, 512, 1024, 2048, 4096)
_MOST_SEQUENCES = 256
_SHORT = 8
"""Tokens of a prompt that is there for its decodes."""


class Workload:
    """Sends an engine the requests whose steps are wanted.

    Args:
        engine: started, of the engine ``vllm``, with a scheduler of :mod:`workers.engines.vllm.timed_scheduler`.
        log: that scheduler's log.
        say: takes a line about what is being measured.
    """

    def __init__(self, engine: Engine, log: Path, say: Callable[[str], None]) -> None:
        self._engine, self._log, self._say = engine, log, say
        self._model = engine.models()[0]
        self._sent = 0

    async def run(self) -> list[Sample]:
        """Run all of it, and return its steps but those that warm the engine up.

        Raises:
            EngineStartError: the engine refuses a request.
            EngineDeadError: it died.
        """
        context = self._model.max_model_len or max(_PROMPTS)
        lengths = [length for length in _PROMPTS if length + _STEPS <= context]
        await asyncio.gather(*(self._send(_SHORT, 2) for _ in range(4)))
        warm_up = len(self._log.read_text().splitlines())
        sizes = [
            size
            for size in (1 << n for n in range(9))
            if size <= min(self._engine.capacity(), _MOST_SEQUENCES)
        ]
        for size in sizes:
            self._say(f"{size} sequences decode")
            await asyncio.gather(*(self._send(_SHORT, _STEPS) for _ in range(size)))
        for length in lengths:
            self._say(f"a prompt of {length} tokens")
            for _ in range(_REPEATS):
                await self._send(length, 1)
        beside = max(1, sizes[-1] // 2)
        self._say(f"prompts beside {beside} sequences")
        decoding = [asyncio.create_task(self._send(_SHORT, _STEPS * len(lengths))) for _ in range(beside)]
        for length in lengths:
            for _ in range(_REPEATS):
                await self._send(length, 1)
        await asyncio.gather(*decoding)
        return [Sample(*json.loads(line)) for line in self._log.read_text().splitlines()[warm_up:]]

    async def _send(self, length: int, tokens: int) -> None:
        """Send a prompt that begins as no other one does, so that none of it is in the prefix cache."""
        self._sent += 1
        first, second = divmod(self._sent, _IDS)
        prompt = [_FIRST_ID + second, _FIRST_ID + first, *(_FIRST_ID + at % _IDS for at in range(length - 2))]
        body = {"model": self._model.name, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
        request = EngineRequest(f"fit-{self._sent}", "/v1/completions", json.dumps(body).encode())
        final = await self._engine.run(request, lambda _: None)
        if final.status != 200:
            raise EngineStartError(f"the engine refused a request of the measurement: {final.body.decode()}")


_FIRST_ID, _IDS = 300, 200
"""Tokens that every vocabulary has."""
