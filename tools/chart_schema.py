"""The names of settings, for the chart's schema and for the operator: a wrong one is refused before a pod crashes on it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
SCHEMA = DEPLOY / "helm" / "penstock" / "values.schema.json"
NAMES = DEPLOY / "operator" / "setting_names.py"


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


def names_text() -> str:
    """Return the operator's module with the keys of a pool's table: its image has no code of the workers."""
    from workers.devices.pools import KEYS

    listed = "".join(f'        "{name}",\n' for name in sorted(KEYS))
    return (
        '"""The keys of a pool\'s table in penstock.toml. Made by tools/gen_docs.py from workers/devices/pools.py."""\n\n'
        "from __future__ import annotations\n\nfrom typing import Final\n\n"
        f"NAMES: Final = frozenset(\n    {{\n{listed}    }}\n)\n"
    )


def _table(description: str, names: Iterable[str]) -> dict[str, Any]:
    properties = dict.fromkeys(sorted(names), True)
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "properties": properties,
    }
