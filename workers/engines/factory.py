"""Make an engine by its kind."""

from __future__ import annotations

from typing import Literal, TypeAlias, overload

from workers.engines.base import Engine
from workers.engines.settings import OpenAISettings, SimulatedSettings, VllmSettings

EngineKind: TypeAlias = Literal["vllm", "openai", "simulated"]


@overload
def make_engine(kind: Literal["vllm"], settings: VllmSettings) -> Engine: ...
@overload
def make_engine(kind: Literal["openai"], settings: OpenAISettings) -> Engine: ...
@overload
def make_engine(kind: Literal["simulated"], settings: SimulatedSettings) -> Engine: ...
def make_engine(kind: EngineKind, settings: VllmSettings | OpenAISettings | SimulatedSettings) -> Engine:
    """Return an engine that is not started yet.

    Args:
        kind: which engine.
        settings: of the class that belongs to ``kind``.

    Raises:
        TypeError: settings of another kind.
    """
    # Imported here so that a process pays only for the engine it runs.
    if kind == "vllm" and isinstance(settings, VllmSettings):
        from workers.engines.vllm.engine import VllmEngine

        return VllmEngine(settings)
    if kind == "openai" and isinstance(settings, OpenAISettings):
        from workers.engines.openai.engine import OpenAIEngine

        return OpenAIEngine(settings)
    if kind == "simulated" and isinstance(settings, SimulatedSettings):
        from workers.engines.simulated.engine import SimulatedEngine

        return SimulatedEngine(settings)
    msg = f"{type(settings).__name__} does not belong to engine kind {kind!r}"
    raise TypeError(msg)
