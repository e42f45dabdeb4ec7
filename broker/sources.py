"""Where settings come from, and how lists and tables are written as text."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AliasChoices, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

PREFIX = "PENSTOCK_"
FILE_VARIABLE = "PENSTOCK_SETTINGS_FILE"
_FILE = "penstock.toml"

_KUBERNETES = re.compile(r"PENSTOCK_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_KUBERNETES_PORT = re.compile(r"PENSTOCK_(\w+_)?PORT")
_KUBERNETES_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def settings_file() -> Path:
    """Return the file that every process reads its settings from. It need not exist."""
    return Path(os.environ.get(FILE_VARIABLE) or _FILE)


def is_kubernetes(name: str, value: str) -> bool:
    """Whether Kubernetes set this variable, in upper case, for a Service whose name begins with ``penstock``.

    For a Service ``penstock`` it sets ``PENSTOCK_PORT=tcp://10.0.0.1:8080``, ``PENSTOCK_SERVICE_HOST`` and some more
    (Kubernetes, "Accessing the Service", environment variables). Their values are no settings.
    """
    if _KUBERNETES.fullmatch(name):
        return True
    return bool(_KUBERNETES_PORT.fullmatch(name) and _KUBERNETES_ADDRESS.match(value))


class Environment(EnvSettingsSource):
    """The environment, without the variables that Kubernetes sets for Services."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        found = super()._load_env_vars()
        return {name: text for name, text in found.items() if not is_kubernetes(name.upper(), text or "")}


def named(name: str) -> AliasChoices:
    """Let a setting that operators know from other gateways be found without our prefix too."""
    return AliasChoices(f"penstock_{name}", name)


def aliases(name: str, field: FieldInfo) -> list[str]:
    """Return the variables that a setting is read from, in lower case; the first has precedence."""
    if isinstance(field.validation_alias, AliasChoices):
        return [str(choice) for choice in field.validation_alias.choices]
    return [f"{PREFIX.lower()}{name}"]


class OneName(PydanticBaseSettingsSource):
    """A source that reports a setting of :func:`named` under one name, so that an earlier source overrides a later one.

    pydantic-settings merges the sources by the names under which they found a setting, and chooses among the names later.
    """

    def __init__(self, settings_cls: type[BaseSettings], source: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Ask the source."""
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        """Return what the source found."""
        found = self._source()
        for name, field in self.settings_cls.model_fields.items():
            first, *others = aliases(name, field)
            for other in others:
                if other in found:
                    found.setdefault(first, found.pop(other))
        return found


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        # Without the original, which quotes the text: it may hold keys.
        raise ValueError(f"it begins with {text.lstrip()[0]}, but it is not valid JSON") from None


def _shell_words(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _from_json(value)
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"it cannot be split as a shell does: {error}") from None


def _comma_list(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _from_json(value)
    return [word.strip() for word in value.split(",") if word.strip()]


def _pairs(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return _from_json(value)
    found: dict[str, str] = {}
    for number, pair in enumerate(filter(None, (word.strip() for word in value.split(","))), 1):
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"write NAME=VALUE,NAME=VALUE, or a JSON object; entry {number} has no =")
        if name.strip() in found:
            raise ValueError(f"{name.strip()} is there twice")
        found[name.strip()] = text.strip()
    return found


def _json_table(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("{"):
        raise ValueError('write a JSON object, for example {"name": {"key": 1}}')
    return _from_json(value)


ShellWords = Annotated[tuple[str, ...], BeforeValidator(_shell_words)]
"""A list of strings; as text: words as a shell splits them, or a JSON list."""

CommaList = Annotated[tuple[str, ...], BeforeValidator(_comma_list)]
"""A list of strings; as text: separated by commas, or a JSON list."""

PAIRS = BeforeValidator(_pairs)
"""For a table of strings; as text: ``name=value``, separated by commas, or a JSON object."""

JSON_TABLE = BeforeValidator(_json_table)
"""For a table of tables; as text: a JSON object."""


def check_sendable(key: str, whose: str) -> None:
    """Check that an API key can be sent in an HTTP header.

    Raises:
        ValueError: it cannot. The message has no part of it.
    """
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise ValueError(
            f"{whose} cannot be sent in an HTTP header: it is empty, or has a space, a line break, a control"
            " character or a letter outside of ASCII"
        )


def given(field: FieldInfo | None, error: ErrorDetails) -> str:
    """Return `` (it is ...)`` for a message about a bad value; empty if the setting might hold a secret.

    Shown are numbers, switches, choices, and texts of a fixed pattern. A URL may hold a password, a list a token.
    """
    if field is None or error["type"] == "missing" or not _is_plain(field):
        return ""
    return f" (it is {error['input']!r})"


def _is_plain(field: FieldInfo) -> bool:
    if any("://" not in pattern for one in field.metadata if (pattern := getattr(one, "pattern", None))):
        return True
    kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
    return get_origin(field.annotation) is Literal or all(kind in {int, float, bool} for kind in kinds)
