"""Whether a model's hub can be reached, asked before vLLM loads: its own tries take half a minute and end in advice."""

from __future__ import annotations

import os
import re

from workers.devices.weights import model_folder
from workers.engines.base import EngineStartError

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TIMEOUT_S = 10.0


def check_reachable(model: str) -> None:
    """Refuse a hub name whose files are not on this machine while its hub cannot be reached. Blocks.

    Args:
        model: a folder, a Hugging Face name, or anything else that vLLM takes.

    Raises:
        EngineStartError: it cannot be loaded from anywhere.
    """
    if (
        not _HUB_NAME.fullmatch(model)
        or model_folder(model) is not None
        or "VLLM_USE_MODELSCOPE" in os.environ
    ):
        return
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        # Any answer will do: vLLM's own requests show whether it has the model.
        get_session().get(f"{constants.ENDPOINT}/api/models/{model}", timeout=_TIMEOUT_S)
    except Exception as error:  # each version of the client has another HTTP library, with errors of its own
        offline = isinstance(error, OfflineModeIsEnabled)
        why = (
            "HF_HUB_OFFLINE forbids to ask the hub"
            if offline
            else f"the hub {constants.ENDPOINT} cannot be reached"
        )
        raise EngineStartError(
            f"model {model} is neither a folder here nor in the Hugging Face cache, and {why}: name a folder with the "
            "model's files (--model ./folder), or let this machine reach the hub (HF_ENDPOINT names a mirror, HF_TOKEN is "
            "for private models)"
        ) from error
