"""Names that are no setting: refused at the start, so that a typing error does not pass for a setting."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Mapping
from typing import Any

from broker.sources import FILE_VARIABLE, PREFIX, is_kubernetes, settings_file
from penstock.server.settings import VARIABLES, fields

_POOLS = "pools"
_ALIKE = 0.8
"""How much a name resembles the one that was probably meant; difflib's own 0.6 finds a neighbour of almost any name."""
_REFERENCE = "docs/reference/configuration.md lists all of them"
_OWN = "; a variable of your own needs another prefix"


class NamesStartError(Exception):
    """There is a name that no process of Penstock knows, or the settings file cannot be read."""


def check_names() -> None:
    """Check the names in the environment and in the settings file, whichever process they are for.

    Keys inside of ``[pools.*]`` are checked by :mod:`workers.devices.pools`.

    Raises:
        NamesStartError: naming each unknown name, and the known one that it resembles most.
    """
    file = settings_file()
    problems = [
        f"unknown environment variable {name}: {_advice(name.upper(), _variables(), PREFIX)}{_OWN}"
        for name, value in os.environ.items()
        if name.upper().startswith(PREFIX) and value and not _is_known(name.upper(), value)
    ]
    problems += [
        f"{file}: {key}: there is no such setting: {_advice(key.lower(), _keys())}"
        for key in _read()
        if key not in _keys()
    ]
    if problems:
        raise NamesStartError("; ".join(problems))


def _is_known(name: str, value: str) -> bool:
    return name in _variables() or is_kubernetes(name, value)


def _variables() -> Collection[str]:
    return [*VARIABLES, *(f"{PREFIX}{name.upper()}" for name in fields())]


def _keys() -> Collection[str]:
    return [*fields(), _POOLS]


def _advice(name: str, known: Collection[str], prefix: str = "") -> str:
    stems = [one.removeprefix(prefix) for one in known]  # what all have in common is no resemblance
    near = difflib.get_close_matches(name.removeprefix(prefix), stems, n=1, cutoff=_ALIKE)
    return f"did you mean {prefix}{near[0]}?" if near else _REFERENCE


def _read() -> Mapping[str, Any]:
    file = settings_file()
    try:
        return tomllib.loads(file.read_bytes().decode())
    except FileNotFoundError as error:
        if os.environ.get(FILE_VARIABLE):
            raise NamesStartError(f"{FILE_VARIABLE} names {file}, and there is no such file") from error
        return {}
    except (OSError, ValueError) as error:  # unreadable, not UTF-8, not TOML
        raise NamesStartError(f"{file} cannot be read: {error}") from error
