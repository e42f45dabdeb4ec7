"""The names of settings in the schema of the chart's values: a wrong one is refused by Helm, before a pod crashes on it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).resolve().parent.parent / "deploy" / "helm" / "penstock" / "values.schema.json"


def schema_text() -> str:
    """Return the schema with the names that the processes know; all else in it stays as it is written."""
    from penstock.server.settings import fields
    from workers.devices.pools import KEYS, OWN
    from workers.devices.swap_groups import MODELS

    schema = json.loads(SCHEMA.read_text())
    # Beside the tables of pools, the keys that each pool has for itself stop the start.
    schema["$defs"]["settings"] = _table("Keys of penstock.toml above its tables.", {*fields()} - {*OWN})
    schema["$defs"]["poolSettings"] = _table(
        "Further keys of [pools.NAME] in penstock.toml.", [*KEYS, MODELS]
    )
    return json.dumps(schema, indent=2) + "\n"


def _table(description: str, names: Iterable[str]) -> dict[str, Any]:
    properties = dict.fromkeys(sorted(names), True)
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "properties": properties,
    }
