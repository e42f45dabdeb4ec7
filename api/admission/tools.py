"""Which tools of Responses an engine has. One that it lacks is refused: the engine would leave it out without a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.http.errors import invalid
from broker.catalogue import Model
from jobs.endpoints import RESPONSES

CLIENT_TOOLS = frozenset({"function", "custom", "namespace"})
"""Tools that the client runs itself."""

_WITH_OWN_TOOLS = frozenset({"openai", None})
"""Engines that may run tools themselves: another server's are not known here. None: an older worker's."""


def check_tools(model: Model, endpoint: str, request: Mapping[str, Any]) -> None:
    """Refuse a tool that the model's engine would have to run, and cannot.

    Raises:
        ApiError: 400 ``unsupported``, naming the tool.
    """
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
