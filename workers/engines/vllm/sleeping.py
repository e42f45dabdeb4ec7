"""How vLLM frees the devices for another model, and takes them again.

- On a GPU by its sleep mode: its processes, its graphs and its front stay, and waking copies the weights back (level 1) or
  reads them from disk (level 2).
- On a CPU, which has no sleep mode, by ending its processes and starting them again.
- A paced engine holds nothing; it pretends, and takes as long to wake as its settings say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from workers.engines.base import EngineDeadError, EngineStartError
from workers.engines.settings import VllmSettings


class Sleep:
    """The sleep of one engine.

    Args:
        start, stop: the engine's.

    Attributes:
        asleep: it gave the devices away.
        weights: the folder of the weights that were loaded last; None: the settings' own.
    """

    def __init__(
        self,
        settings: VllmSettings,
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings, self._start, self._stop = settings, start, stop
        self.asleep = False
        self.weights: str | None = None

    async def begin(self, llm: Any) -> None:
        """Free the devices. ``llm``: vLLM's client; see :meth:`workers.engines.base.Engine.sleep`."""
        if self.asleep:
            return
        if llm is None or llm.errored:
            raise EngineDeadError("vLLM's engine process is dead", reached=False)
        self.asleep = True  # first: while its processes end, the engine is not dead
        if self._settings.paced is not None:
            await llm.reset_prefix_cache()  # a GPU's memory, and the cache in it, would be gone
        elif self._settings.sleep_level is not None:
            await llm.sleep(self._settings.sleep_level)
        else:
            await self._stop()

    async def end(self, llm: Any) -> None:
        """Take the devices. See :meth:`workers.engines.base.Engine.wake`."""
        if not self.asleep:
            return
        if llm is None:
            await self._start()
        elif self._settings.paced is not None:
            await asyncio.sleep(self._settings.paced_wake_s)
        else:
            await _wake(llm, self._settings.sleep_level, self.weights)
        self.asleep = False


async def _wake(llm: Any, level: int | None, weights: str | None) -> None:
    """Bring the weights back, then the KV cache: both at once may need more memory than there is."""
    try:
        await llm.wake_up(["weights"])
        if level == 2:
            await llm.collective_rpc("reload_weights", kwargs={"weights_path": weights} if weights else None)
        await llm.wake_up(["kv_cache"])
        await llm.reset_prefix_cache()
    except Exception as error:
        if llm.errored:
            raise EngineDeadError("vLLM's engine process died while it woke", reached=False) from error
        msg = f"vLLM cannot take the GPU's memory again: {error}"
        raise EngineStartError(f"{msg}. Another process may hold it: see nvidia-smi") from error
