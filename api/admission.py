"""May this request enter the queue? The model and its endpoints. Pure; its length: :mod:`api.context_length`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.catalogue import Model
from api.errors import ApiError, invalid


def named_model(body: Mapping[str, Any], param: str = "model") -> str:
    """Return the name of the model that a body asks for.

    Raises:
        ApiError: 400, it names none.
    """
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise invalid("name a model; GET /v1/models lists them", param)
    return name


def model_not_found(name: str) -> ApiError:
    """Make the 404 for a model that no worker ever served here."""
    message = f"the model {name!r} does not exist; GET /v1/models lists what there is"
    return ApiError(404, message, "model_not_found", param="model")


def check_endpoint(model: Model, endpoint: str) -> None:
    """Refuse what the model cannot do.

    Raises:
        ApiError: 400 ``unsupported``.
    """
    if model.endpoints and endpoint not in model.endpoints:
        message = f"the model {model.name!r} does not do {endpoint}; it does {', '.join(model.endpoints)}"
        raise invalid(message, "model", "unsupported")
