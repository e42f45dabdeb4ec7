"""The patterns that texts in settings and requests must match, and how to say in words what each one allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

NAME: Final = r"^[A-Za-z0-9_-]{1,64}$"
"""A tenant, a pool, a group, a namespace."""

DOTTED_NAME: Final = r"^[A-Za-z0-9_.-]{1,64}$"
"""A worker, a parser."""

WEB_ADDRESS: Final = r"^https?://"
LOG_LEVEL: Final = r"^(debug|info|warning|error)$"
VERSION: Final = r"^v[1-9][0-9]{0,5}$"
POD: Final = r"^[a-z0-9-]{1,63}/[a-z0-9.-]{1,253}$"
GPUS: Final = r"^(all|\d+(,\d+)*)$"
HOST_AND_PORT: Final = r"^[^\s:/]+:\d{1,5}$"
DEVICE: Final = r"[A-Za-z0-9]"
ENTRY_ID: Final = r"^[0-9]{1,16}-[0-9]{1,18}$"

WORDS: Final = {
    NAME: "use 1 to 64 characters: letters (a-z, A-Z), digits, '-' and '_'",
    DOTTED_NAME: "use 1 to 64 characters: letters (a-z, A-Z), digits, '.', '-' and '_'",
    WEB_ADDRESS: "use an address that begins with http:// or https://",
    LOG_LEVEL: "use debug, info, warning or error",
    VERSION: "use v and a number, such as v2",
    POD: "use NAMESPACE/POD, such as penstock/worker-0",
    GPUS: "use the numbers of GPUs with commas between them, such as 0,1, or all",
    HOST_AND_PORT: "use HOST:PORT, such as 10.0.0.5:29500",
    DEVICE: "use a text with a letter (a-z, A-Z) or a digit",
    ENTRY_ID: "use the id of the last entry of the previous page, unchanged",
}
"""By pattern, how to say what it allows."""


def in_words(error: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, in words where pydantic shows a pattern.

    Args:
        error: one of pydantic's ``errors()``.
    """
    if error["type"] == "string_pattern_mismatch":
        return WORDS[error["ctx"]["pattern"]]
    return str(error["msg"]).removeprefix("Value error, ")
