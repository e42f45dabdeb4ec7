"""Whether a model can do what a request asks for: THE check of every face against its endpoints and capabilities.

One that it cannot is refused before it is queued. Its engine would refuse it later and in other words, leave a part of it
out without a word, or die of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.http.errors import ApiError, invalid
from broker.models import Model
from jobs.abilities import lack
from jobs.endpoints import RESPONSES
from jobs.poison import Remembered, kind_of

CLIENT_TOOLS = frozenset({"function", "custom", "namespace"})
"""Tools that the client runs itself."""

_WITH_OWN_TOOLS = frozenset({"openai", None})
"""Engines that may run tools themselves: another server's are not known here. None: an older worker's."""


def check_abilities(model: Model, endpoint: str, request: Mapping[str, Any]) -> None:
    """Refuse a request that the model cannot do. A model whose worker does not say what it can do is asked for anything.

    Raises:
        ApiError: 400 ``unsupported``, naming the field that asks for it.
    """
    if model.endpoints and endpoint not in model.endpoints:
        message = f"the model {model.name!r} does not do {endpoint}; it does {', '.join(model.endpoints)}"
        raise invalid(message, "model", "unsupported")
    _check_tools(model, endpoint, request)
    if (found := lack(model.capabilities, endpoint, request)) is not None:
        raise _unsupported(model, found.param, found.sentence)


def check_kind(
    model: Model, endpoint: str, request: Mapping[str, Any], poisoned: Mapping[str, Remembered]
) -> None:
    """Refuse a request of a kind that killed an engine of the model's pool twice: it would kill a third one.

    Args:
        poisoned: the kinds that the pool remembers, by digest.

    Raises:
        ApiError: 400 ``poisoned_kind``.
    """
    if (
        not poisoned
        or (kind := kind_of(endpoint, model.name, request)) is None
        or kind.digest not in poisoned
    ):
        return
    members = ", ".join(kind.members)
    message = (
        f"requests of this kind ({members}) to the model {model.name!r} ended its engine twice, so they are refused for "
        f"some hours; leave out or change {members}. An operator lifts this with: penstock queue unpoison {model.pool}"
    )
    raise invalid(message, kind.members[0], "poisoned_kind")


def _check_tools(model: Model, endpoint: str, request: Mapping[str, Any]) -> None:
    """Refuse a tool of Responses that the engine would have to run, and cannot."""
    tools = request.get("tools")
    if endpoint != RESPONSES or model.engine in _WITH_OWN_TOOLS or not isinstance(tools, list):
        return
    for tool in tools:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind not in CLIENT_TOOLS:
            message = (
                f"the tool {kind[:64]!r} is not there: the engine of the model {model.name!r} runs no tools itself; "
                f"use tools of the types {', '.join(sorted(CLIENT_TOOLS))}, which your program runs"
            )
            raise invalid(message, "tools", "unsupported")


def _unsupported(model: Model, param: str, sentence: str) -> ApiError:
    return invalid(f"the model {model.name!r} cannot do this: {sentence}", param, "unsupported")
