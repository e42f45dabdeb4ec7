"""Settings from files, one value a file: the secrets of Docker, Podman and Kubernetes, and systemd's credentials."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, SecretsSettingsSource

FOLDER = Path("/run/secrets")
"""Where Docker and Podman put a container's secrets."""

VARIABLE = "CREDENTIALS_DIRECTORY"
"""The variable in which systemd names the folder of a unit's credentials (systemd.exec, "Credentials")."""


class SecretFiles(SecretsSettingsSource):
    """Reads ``penstock_api_keys``, ``penstock_redis_password`` and so on from :data:`FOLDER` and systemd's folder.

    A file's name is the setting's variable in lower case. White space around the value is dropped, and an empty file counts
    as missing, so that a deployment may mount a file for a setting that it does not use. A missing folder is no error.
    """

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        named = os.environ.get(VARIABLE)
        folders = [FOLDER, *([Path(named)] if named else [])]
        super().__init__(settings_cls, secrets_dir=[folder for folder in folders if folder.is_dir()])

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """As pydantic-settings', without empty values."""
        value, key, is_complex = super().get_field_value(field, field_name)
        return value or None, key, is_complex
