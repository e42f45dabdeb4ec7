"""The text of a first ``penstock.toml``: what is set, and what else could be, with its meaning. Pure."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from penstock.server.init.choice import Place
from penstock.server.settings import fields

_WIDTH = 110

SECTIONS = (
    ("The engine", ("engine_args", "concurrency", "kv_cache_gib", "aliases", "drain_timeout_s")),
    ("The queue", ("redis_url", "namespace", "queue_max", "max_active", "ageing_s", "retention_s")),
    (
        "The api",
        ("host", "port", "require_keys", "tls_cert_file", "tls_key_file", "default_model", "max_body_bytes"),
    ),
    ("Files and logs", ("data_dir", "files_url", "inline_bytes", "log_level", "log_json")),
    ("To watch it", ("flower", "metrics_host", "metrics_port", "otlp_endpoint")),
)
"""Settings that are often changed. ``docs/reference/configuration.md`` has all."""

_OWN = frozenset({"engine_args", "aliases"})
"""Each pool sets these for itself, so they cannot stand above the tables."""

_EXAMPLES: dict[str, Any] = {
    "engine_args": ["--max-model-len=8192"],
    "aliases": ["gpt-4o-mini"],
    "concurrency": 64,
    "kv_cache_gib": 8.0,
    "max_active": 64,
    "default_model": "chat",
    "tls_cert_file": "server.pem",
    "tls_key_file": "server.key",
    "files_url": "s3://bucket/penstock",
    "otlp_endpoint": "http://127.0.0.1:4318",
}
"""For settings without a default, or with an empty one."""


def written(machine: str, chosen: dict[str, Any], places: Sequence[Place]) -> str:
    """Return the file.

    Args:
        machine: what this machine has, in a line.
        chosen: settings at the top level.
        places: tables of pools; a single one without a name is the top level's own.
    """
    lines = [
        "# Settings of Penstock. Every process that starts in this folder reads them (or PENSTOCK_SETTINGS_FILE).",
        "# The command line and the environment (PENSTOCK_<NAME>) win over this file. Lines that begin with # are",
        "# defaults, or examples where there is none. All settings: docs/reference/configuration.md",
        f"# Made for {machine}.",
        "",
    ]
    single = len(places) == 1 and not places[0].name
    if single:
        lines += _place(places[0])
    for name, value in chosen.items():
        lines += [*_comment(name), f"{name} = {_toml(value)}", ""]
    for title, names in SECTIONS:
        lines += [f"# ---- {title} ".ljust(_WIDTH, "-"), ""]
        for name in names:
            if name in chosen or (not single and name in _OWN):
                continue
            default = fields()[name].default
            value = _EXAMPLES.get(name, default) if default is None or default == () else default
            lines += [*_comment(name), f"# {name} = {_toml(value)}", ""]
    if not single:
        lines += ["# ---- The models, a pool of workers for each ".ljust(_WIDTH, "-"), ""]
        for place in places:
            lines += [f"[pools.{place.name}]", *_place(place)]
    return "\n".join(lines)


def _place(place: Place) -> Iterator[str]:
    """Yield a pool's own settings."""
    if place.model is None:
        yield "# A hub name or a local path. Without it: a tiny random model, for trying the plumbing."
        yield '# model = "Qwen/Qwen2.5-0.5B-Instruct"'
    else:
        yield "# A hub name or a local path. The first start downloads it."
        yield f"model = {_toml(place.model)}"
    if place.gpus is not None:
        copies = len(place.gpus.split(",")) // place.group
        yield f"# One worker for each group of tensor_parallel GPUs: here {copies}."
        if place.remark:
            yield f"# {place.remark}"
        yield f"gpus = {_toml(place.gpus)}"
        yield f"tensor_parallel = {place.group}"
    if place.shared:
        yield "# There are more models than GPUs: they take turns, and sleep in main memory meanwhile."
        yield 'swap_group = "gpus"'
    yield ""


def _comment(name: str) -> Iterator[str]:
    """Yield a setting's meaning as comments."""
    meaning = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", fields()[name].description or "").replace("`", "")
    for line in textwrap.wrap(meaning, _WIDTH - 2):
        yield f"# {line}"


def _toml(value: Any) -> str:
    if isinstance(value, bool | str | int | float):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return json.dumps(str(value))
