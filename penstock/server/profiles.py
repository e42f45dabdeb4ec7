"""Profiles of ``penstock up``: sets of defaults. Whatever is set anywhere else wins."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from broker.sources import PREFIX, settings_file

EDGE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "flower": "false",
        "coordinator_in_api": "true",
        "one_engine_process": "true",
        "concurrency": "8",
        "kv_cache_gib": "0.25",
        "retention_s": "21600",
        "max_connections": "256",
        "bodies_memory_bytes": str(4 << 20),
        "max_body_bytes": str(4 << 20),
        "inbox_max_bytes": str(256 << 10),
        "image_max_bytes": str(4 << 20),
    }
)
"""For a machine with little memory: fewer processes, small caches, few jobs at once, results kept for six hours."""

PROFILES: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType({"edge": EDGE})

_ALLOCATOR: Final = {"MALLOC_ARENA_MAX": "2"}
"""glibc keeps a heap for each thread otherwise."""


def apply(profile: str | None, overrides: Mapping[str, Any]) -> None:
    """Make a profile's settings the defaults of this process and its children: environment variables that are not set.

    Args:
        profile: its name; None: none.
        overrides: settings given on the command line, which win anyway.
    """
    if profile is None:
        return
    taken = overrides.keys() | _in_file()
    for name, value in PROFILES[profile].items():
        if name not in taken:
            os.environ.setdefault(f"{PREFIX}{name.upper()}", value)
    for name, value in _ALLOCATOR.items():
        os.environ.setdefault(name, value)


def _in_file() -> frozenset[str]:
    try:
        with settings_file().open("rb") as source:
            return frozenset(tomllib.load(source))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return frozenset()  # whoever reads the settings says what is wrong with it
