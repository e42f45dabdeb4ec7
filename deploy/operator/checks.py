"""What is wrong with a ModelPool's ``settings``, before its pods end on it. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from deploy.operator.setting_names import NAMES


def wrong(settings: Mapping[str, Any]) -> str | None:
    """Return what is wrong with further keys of a pool's table; None: all are known. Values are the workers' to check."""
    for name, value in settings.items():
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            advice = (
                f"did you mean {near[0]}?" if near else "docs/reference/configuration.md lists all of them"
            )
            return f"{name}: there is no such key of a pool; {advice}"
        if _has_null(value):
            return f"{name}: null is no value; leave the key out"
    return None


def _has_null(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_null, value.values()))
    return any(map(_has_null, value)) if isinstance(value, list) else value is None
