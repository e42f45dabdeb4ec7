"""The models of an OpenAI-compatible server, by its answer to ``GET /v1/models``."""

from __future__ import annotations

import msgspec

from jobs.floats import read_float
from workers.engines.base import EngineStartError, ModelInfo
from workers.engines.settings import OpenAISettings

_decode = msgspec.json.Decoder(float_hook=read_float).decode


def models_of(settings: OpenAISettings, status: int, body: bytes) -> tuple[ModelInfo, ...]:
    """Return those of them that the settings choose.

    Args:
        status, body: the answer.

    Raises:
        EngineStartError: it is a refusal, or a model is missing.
        msgspec.DecodeError, LookupError, TypeError: no such server answers so.
    """
    if status != 200:
        hint = "; check the API key" if status in {401, 403} else ""
        raise EngineStartError(f"{settings.base_url} answers GET /v1/models with status {status}{hint}")
    cards = _decode(body)["data"]
    if settings.models:
        cards = [card for card in cards if card["id"] in settings.models]
        missing = set(settings.models) - {card["id"] for card in cards}
        if missing:
            raise EngineStartError(f"{settings.base_url} does not serve {', '.join(sorted(missing))}")
    if not cards:
        raise EngineStartError(f"{settings.base_url} serves no model")
    return tuple(ModelInfo(card["id"], card, settings.endpoints, card.get("max_model_len")) for card in cards)
