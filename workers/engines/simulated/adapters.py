"""The simulated engine's LoRA adapters: they are read, and change its words. As with vLLM, their files must stay."""

from __future__ import annotations

import json
from pathlib import Path

from workers.engines.base import AdapterBrokenError, EngineDeadError


class SimulatedAdapters:
    """The adapters that are loaded.

    Args:
        most: how many it takes; 0: none.
        max_rank: of the largest.
    """

    def __init__(self, most: int, max_rank: int) -> None:
        self._most, self._max_rank = most, max_rank
        self._names: dict[Path, str] = {}

    async def load(self, name: str, folder: Path) -> None:
        """See :meth:`workers.engines.base.Engine.load_adapter`."""
        if not self._most:
            raise AdapterBrokenError("this worker takes no adapters (adapters_max is 0)")
        try:
            rank = json.loads((folder / "adapter_config.json").read_bytes())["r"]
            weights = (folder / "adapter_model.safetensors").read_bytes()
        except (OSError, ValueError, LookupError) as error:
            raise AdapterBrokenError(f"its files cannot be read: {error}") from error
        if rank > self._max_rank:
            raise AdapterBrokenError(f"its rank is {rank}, and this worker takes {self._max_rank} at most")
        if not weights:
            raise AdapterBrokenError("it has no weights")
        self._names[folder] = name

    def unload(self, folder: Path) -> None:
        """See :meth:`workers.engines.base.Engine.unload_adapter`."""
        self._names.pop(folder, None)

    def folders(self) -> frozenset[Path]:
        """Return the folders of those that are loaded."""
        return frozenset(self._names)

    def use(self, folder: Path | None, default: str) -> str:
        """Return the model's name in the answer to a request.

        Raises:
            EngineDeadError: the adapter is not loaded, or its files are gone. vLLM dies of it, too.
        """
        if folder is None:
            return default
        if folder not in self._names or not folder.is_dir():
            raise EngineDeadError(f"the adapter in {folder.name} is gone")
        return self._names[folder]
