"""May this request enter the queue? The model and its endpoints. Pure; its length: :mod:`api.admission.context_length`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from api.http.errors import ApiError, invalid
from broker.catalogue import Model
from jobs.placement import Device, Placement


def named_model(body: Mapping[str, Any], default: str | None = None) -> str:
    """Return the name of the model that a body asks for; ``default`` where it has no field of that.

    Raises:
        ApiError: 400, it names none.
    """
    name = body.get("model")
    if name is None and default is not None:
        return default
    if not isinstance(name, str) or not name:
        raise invalid("name a model; GET /v1/models lists them", "model")
    return name


def model_not_found(name: str, default: str | None = None) -> ApiError:
    """Make the 404 for a model that no worker ever served here; ``default``: the one for requests that name none."""
    which = "the default model (the server's setting default_model)" if name == default else "the model"
    message = f"{which} {name!r} does not exist; GET /v1/models lists what there is"
    return ApiError(404, message, "model_not_found", param="model")


def no_such_device(name: str, placement: Placement, there: Mapping[str, Iterable[Device]]) -> ApiError:
    """Make the 400 for a placement that no pool of the model meets; ``there``: its pools and their devices."""
    pools = "; ".join(f"{pool}: {' and '.join(map(str, devices))}" for pool, devices in sorted(there.items()))
    message = f"no pool that serves the model {name!r} has {placement}; there is {pools}"
    return ApiError(400, message, "no_such_device", param="placement")


def check_endpoint(model: Model, endpoint: str) -> None:
    """Refuse what the model cannot do.

    Raises:
        ApiError: 400 ``unsupported``.
    """
    if model.endpoints and endpoint not in model.endpoints:
        message = f"the model {model.name!r} does not do {endpoint}; it does {', '.join(model.endpoints)}"
        raise invalid(message, "model", "unsupported")
