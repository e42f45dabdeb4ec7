"""Settings from files, one value a file: the secrets of Docker, Podman and Kubernetes, and systemd's credentials."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from broker.sources import aliases

DIR_VARIABLE = "PENSTOCK_SECRETS_DIR"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""The variable in which systemd names the folder of a unit's credentials (systemd.exec, "Credentials")."""

_DIR = "/run/secrets"  # where Docker and Podman put a container's secrets


class SecretFileStartError(Exception):
    """A secret file is there, but it cannot be read. The message names it."""


class SecretFiles(PydanticBaseSettingsSource):
    """Reads ``penstock_api_keys``, ``penstock_redis_password`` and so on from ``/run/secrets`` and systemd's folder.

    A file's name is the setting's variable in lower case. White space around the value is dropped, and an empty file counts
    as missing, so that a deployment may mount a file for a setting that it does not use. A folder that is missing, or that
    this user may not enter, is no error. No folder is listed: this user may be allowed its own files alone.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return a setting's text, or None, and the name under which pydantic takes it.

        Raises:
            SecretFileStartError: its file cannot be read.
        """
        file_name, *_ = aliases(field_name, field)
        texts = (_read(folder / file_name) for folder in _folders())
        return next(filter(None, texts), None), file_name if field.validation_alias else field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return what the files say of settings that nothing before them has set.

        Raises:
            SecretFileStartError: one of those files cannot be read.
        """
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            if self.current_state.keys().isdisjoint({name, *aliases(name, field)}):
                value, key, _ = self.get_field_value(field, name)
                if value is not None:
                    found[key] = value
        return found


def secret_file(name: str, field: FieldInfo) -> Path | None:
    """Return the file that a setting is read from if nothing before it has a value; None: there is none, or it is empty."""
    paths = (folder / aliases(name, field)[0] for folder in _folders())
    return next((path for path in paths if _read(path)), None)


def _folders() -> list[Path]:
    """Where to look; the first that has a file wins."""
    named = os.environ.get(CREDENTIALS_VARIABLE)
    return [*([Path(named)] if named else []), Path(os.environ.get(DIR_VARIABLE) or _DIR)]


def _read(path: Path) -> str | None:
    try:
        path.stat()
    except OSError:  # no such file, no such folder, or not for this user to know
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SecretFileStartError(
            f"the secret file {path} cannot be read: {error.strerror}; let the user of this process read it, or remove it"
        ) from error
    except ValueError:  # without the original, which quotes it
        raise SecretFileStartError(f"the secret file {path} is not text in UTF-8") from None
