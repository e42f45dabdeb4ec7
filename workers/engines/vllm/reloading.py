"""Other weights of the same shapes in a running vLLM. A bad path would end its engine process at the next request, so the
files are looked at before.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from workers.devices.same_shapes import UnlikeError, check_same_shapes
from workers.devices.weights import model_folder
from workers.engines.base import EngineDeadError, ReloadRefusedError
from workers.engines.settings import VllmSettings

_TRIES, _PAUSE_S = 100, 0.02


async def check_weights(settings: VllmSettings, llm: Any, model: str) -> Path:
    """Return the folder of a model whose weights can take the place of those that run.

    Args:
        settings: of the running engine.
        llm: vLLM's client.
        model: a folder, or a hub name that is downloaded.

    Raises:
        ReloadRefusedError: they cannot.
    """
    if settings.paced is not None:
        raise ReloadRefusedError("a paced engine has no weights to replace")
    if llm.vllm_config.lora_config is not None:
        raise ReloadRefusedError(
            "weights cannot be replaced beneath LoRA adapters; start the new version beside the old one"
        )
    old, new = model_folder(settings.model), model_folder(model)
    if new is None:
        raise ReloadRefusedError(f"{model} is no folder of this machine, nor a downloaded model of the hub")
    if old is None:
        raise ReloadRefusedError(
            f"the files of the running model {settings.model} are gone, so shapes cannot be compared"
        )
    try:
        await asyncio.to_thread(check_same_shapes, old, new)
    except UnlikeError as error:
        raise ReloadRefusedError(f"{error}; start the new version beside the old one") from error
    return new


async def reload(llm: Any, folder: Path) -> None:
    """Read the weights, and forget what was computed with those before.

    Raises:
        EngineDeadError: the engine process died.
        ReloadRefusedError: vLLM refuses the files. The engine's weights may be of both versions then: load others.
    """
    try:
        await llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        await _forget(llm)
    except Exception as error:
        if llm.errored:
            raise EngineDeadError(
                "vLLM's engine process died while it read other weights", reached=False
            ) from error
        raise ReloadRefusedError(f"vLLM cannot read the weights in {folder}: {error}") from error


async def _forget(llm: Any) -> None:
    """Empty the caches: what the weights before computed would be read by requests that share its prefix."""
    for _ in range(_TRIES):
        if await llm.reset_prefix_cache():
            await llm.reset_mm_cache()
            return
        await asyncio.sleep(_PAUSE_S)  # blocks of a request that has just ended
    raise RuntimeError("the prefix cache cannot be emptied, as its blocks are in use")
