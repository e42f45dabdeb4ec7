"""LoRA adapters in vLLM: loaded, tried and unloaded while it serves.

vLLM tells adapters apart by their names: in its batches, its metrics and the keys of its prefix cache. So each version of an
adapter has a name of its own there, and a request names the version that it runs with. A version is never replaced in place:
vLLM would switch the weights of requests that run.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from jobs.endpoints import CHAT, CLASSIFY, COMPLETIONS, EMBEDDINGS, POOLING
from workers.engines.base import AdapterBrokenError, EngineDeadError, EngineRequest, Final
from workers.engines.vllm.adapter_shapes import misfit

_VERSION = "@version:"
_TRIALS: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": "x", "max_tokens": 1, "temperature": 0, "logprobs": 0},
    CHAT: {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "temperature": 0},
    EMBEDDINGS: {"input": "x"},
    CLASSIFY: {"input": "x"},
    POOLING: {"input": "x"},
}
"""The shortest request on each endpoint. The log-probability shows whether an answer is made of numbers at all."""

_CALL = "Call to add_lora method failed: "
_NOT_JSON = "Out of range float values"


def set_places(args: Any) -> None:
    """Have a place in the host's memory for each adapter of the flags, and on a CPU one place that stays empty.

    vLLM reads an evicted adapter from its folder again, and dies if that is gone. Its kernels for the CPU (0.32) take the
    place -1 of a request without an adapter for the last one: in a batch with others, such a request would run with the
    adapter that is there.

    Args:
        args: vLLM's parsed flags.
    """
    from vllm.platforms import current_platform

    if not args.enable_lora:
        return
    args.max_loras = args.max_loras or 1
    args.max_cpu_loras = max(args.max_loras, args.max_cpu_loras or 0, len(args.lora_modules or ()))
    if current_platform.is_cpu():
        args.max_loras = args.max_cpu_loras = args.max_cpu_loras + 1


def most_at_once(config: Any) -> int:
    """Return how many adapters a batch may have. ``config``: vLLM's; see :func:`set_places`."""
    lora = config.lora_config
    return 0 if lora is None else lora.max_loras - (config.device_config.device_type == "cpu")


def shown_name(lora_name: str) -> str:
    """Return the name by which clients know an adapter, from vLLM's name of it."""
    return lora_name.partition(_VERSION)[0]


class VllmAdapters:
    """The versions that are loaded.

    Args:
        llm: vLLM's engine client.
        served: vLLM's list of models (``OpenAIServingModels``), which this makes answer with the names that clients know.
        run: runs a request.
        endpoints: those of the model.
    """

    def __init__(
        self,
        llm: Any,
        served: Any,
        run: Callable[[EngineRequest, Callable[[object], None]], Awaitable[Final]],
        endpoints: Sequence[str],
    ) -> None:
        self._llm, self._served, self._run = llm, served, run
        self._trial = next(((path, body) for path, body in _TRIALS.items() if path in endpoints), None)
        self._loaded: dict[Path, Any] = {}
        self._numbers = itertools.count(1)
        original = served.model_name
        served.model_name = lambda lora=None: original() if lora is None else shown_name(lora.lora_name)

    async def load(self, name: str, folder: Path) -> None:
        """See :meth:`workers.engines.base.Engine.load_adapter`."""
        from vllm.lora.request import LoRARequest

        if (wrong := await asyncio.to_thread(misfit, folder, self._llm.model_config)) is not None:
            raise AdapterBrokenError(wrong)
        internal = f"{name}{_VERSION}{folder.name}"
        request = LoRARequest(internal, self._served.lora_id_counter.inc(1), str(folder))
        try:
            await self._llm.add_lora(request)
            self._served.lora_requests[internal] = request
            self._loaded[folder] = request
            await self._try(folder)
        except BaseException as error:
            await asyncio.shield(self._forget(folder, request))
            if isinstance(error, EngineDeadError | AdapterBrokenError) or not isinstance(error, Exception):
                raise
            if self._llm.errored:
                raise EngineDeadError(f"the engine died while it loaded the adapter {name!r}") from error
            raise AdapterBrokenError(_reason(error, folder)) from error

    async def unload(self, folder: Path) -> None:
        """See :meth:`workers.engines.base.Engine.unload_adapter`."""
        request = self._loaded.get(folder)
        if request is not None:
            await self._forget(folder, request)

    def folders(self) -> frozenset[Path]:
        """Return the folders of the versions that are loaded."""
        return frozenset(self._loaded)

    def name_of(self, folder: Path) -> str:
        """Return the model that a request names to run with a loaded version.

        Raises:
            LookupError: it is not loaded.
        """
        return str(self._loaded[folder].lora_name)

    async def _forget(self, folder: Path, request: Any) -> None:
        self._loaded.pop(folder, None)
        self._served.lora_requests.pop(request.lora_name, None)
        if not self._llm.errored:
            # Also after a failed load: an adapter whose shapes are wrong stays registered, and in a slot of the batch. The
            # answer comes after all that the engine was sent before, so no step reads the folder any more.
            await self._llm.remove_lora(request.lora_int_id)

    async def _try(self, folder: Path) -> None:
        """Run one request with a version that no client can use yet.

        Raises:
            AdapterBrokenError: it is refused, or its answer is not made of numbers.
        """
        if self._trial is None:
            return
        path, body = self._trial
        raw = json.dumps(body).encode()
        ident = f"adapter-trial-{next(self._numbers)}"
        final = await self._run(EngineRequest(ident, path, raw, adapter=folder), _ignore)
        if final.status != 200:
            said = final.body[:500].decode(errors="replace")
            if _NOT_JSON in said:
                said = "the answer is not made of numbers, so its weights are not either (NaN, or too large)"
            raise AdapterBrokenError(f"a first request with it failed: {said}")


def _reason(error: Exception, folder: Path) -> str:
    """Return what is wrong, from an error of vLLM's that quotes its engine's, and names our folder."""
    lines = [line for line in str(error).removeprefix(_CALL).splitlines() if line.strip()]
    said = lines[-1] if lines else type(error).__name__
    return said.replace(f"{folder}/", "").replace(str(folder), "its folder")[:500]


def _ignore(_: object) -> None:
    pass
