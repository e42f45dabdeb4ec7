"""The OpenAPI document that clients are built from: ``clients/openapi.json``, and the gate on its changes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tools.openapi_changes import breaking_changes

CLIENTS = Path(__file__).resolve().parent.parent / "clients"
DOCUMENT = CLIENTS / "openapi.json"
REASONS = CLIENTS / "openapi-breaking.md"

_REASON = re.compile(r"^- `(.+)`: \S", re.MULTILINE)


def openapi() -> dict[str, Any]:
    """Return the api's document. It depends on no setting of this machine."""
    from api.app import create_app
    from api.settings import ApiSettings
    from penstock import __version__

    return create_app(ApiSettings.model_construct(), __version__).openapi()


def document_text() -> str:
    """Return the file's text."""
    return json.dumps(openapi(), indent=1, ensure_ascii=False) + "\n"


def unexplained() -> list[str]:
    """Return the changes against the committed document that break clients, and have no reason in ``REASONS``."""
    if not DOCUMENT.exists():
        return []
    explained = set(_REASON.findall(REASONS.read_text()))
    found = breaking_changes(json.loads(DOCUMENT.read_text()), openapi())
    return [change for change in found if change not in explained]
