"""LoRA adapters from the Hugging Face hub, through its own client and cache."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from jobs.adapter_files import CONFIG, WEIGHTS, BadAdapterError
from storage.adapters import AdapterFiles

HUB = "hf:"
"""With this begins the source of an adapter on the hub: ``hf:org/name``, or ``hf:org/name@revision``."""

_NAME = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)


class HubAwayError(BadAdapterError):
    """The hub cannot be reached now, or cannot answer. Another try may end otherwise."""


def from_hub(source: str, most_bytes: int) -> AdapterFiles:
    """Download an adapter's two files into the hub's cache, or find them there. It blocks.

    The address and the token of the hub are ``HF_ENDPOINT`` and ``HF_TOKEN``; with ``HF_HUB_OFFLINE=1`` only the cache
    counts.

    Args:
        source: see :data:`HUB`.
        most_bytes: of the weights; more are not downloaded.

    Raises:
        BadAdapterError: there is no such adapter; ``HubAwayError``: the hub cannot be reached.
    """
    name, _, revision = source.removeprefix(HUB).partition("@")
    if not _NAME.fullmatch(name) or not re.fullmatch(r"[\w./-]{0,200}", revision, re.ASCII):
        raise BadAdapterError(
            f"{source[:200]!r} names no adapter on the hub; write hf:org/name or hf:org/name@revision"
        )
    try:
        import huggingface_hub as hub  # it comes with vLLM
        from huggingface_hub.constants import HF_HUB_OFFLINE as OFFLINE
    except ImportError as error:
        raise BadAdapterError(
            f"{source}: this process has no huggingface_hub package; install it, or add the adapter from a folder"
        ) from error
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        if not OFFLINE:
            url = hub.hf_hub_url(name, WEIGHTS, revision=revision or None, endpoint=endpoint)
            size = hub.get_hf_file_metadata(url).size
            if size is None or size > most_bytes:
                raise BadAdapterError(
                    f"{source}: its {WEIGHTS} has {size} bytes, more than the {most_bytes} of the setting adapter_max_bytes"
                )
        return AdapterFiles(
            *(
                Path(hub.hf_hub_download(name, one, revision=revision or None, endpoint=endpoint))
                for one in (CONFIG, WEIGHTS)
            )
        )
    except BadAdapterError:
        raise
    except Exception as error:  # its client lets those of the libraries below it through
        where = (
            "is not in the hub's cache, and HF_HUB_OFFLINE is set"
            if OFFLINE
            else "cannot be had from the hub"
        )
        said = str(error).strip().split("\n", 1)[0][:300]
        kind = HubAwayError if not OFFLINE and _is_away(hub, error) else BadAdapterError
        raise kind(f"{source} {where}: {said}") from error


def _is_away(hub: Any, error: Exception) -> bool:
    """Return whether the hub gave no answer, or one that says nothing of the adapter. ``hub``: its client's module."""
    if isinstance(error, hub.errors.HfHubHTTPError):
        status = getattr(error.response, "status_code", 503)
        return status >= 500 or status == 429
    if isinstance(error, hub.errors.LocalEntryNotFoundError):
        return True
    return not isinstance(error, hub.errors.EntryNotFoundError | ValueError)
