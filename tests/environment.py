"""The environment of tests, and of the processes that they start: without the settings of whoever runs them."""

from __future__ import annotations

import os

from broker.secret_files import CREDENTIALS_VARIABLE, DIR_VARIABLE
from broker.sources import FILE_VARIABLE, PREFIX, aliases
from penstock.server.settings import fields

OF_TESTS = frozenset(
    {"PENSTOCK_OPEN_WEBUI", "PENSTOCK_SCREENSHOTS", "PENSTOCK_TEST_CACHE", "PENSTOCK_TEST_CHROMIUM"}
)
"""Variables that tests read themselves."""

OF_AN_ENGINE = frozenset({"VLLM_LOGGING_CONFIG_PATH", "VLLM_LOGGING_LEVEL"})
"""Variables that an engine in this process sets for its own processes; servers that a test starts log as if alone."""


NO_FILES = (FILE_VARIABLE, DIR_VARIABLE, "PENSTOCK_SERVERS_FILE")
"""Variables that name files of whoever runs the tests."""


def clean() -> dict[str, str]:
    """Return this process's environment without any setting, with an empty settings file and without secret files.

    A process that reads ``penstock.toml`` in its folder needs it without ``PENSTOCK_SETTINGS_FILE``.
    """
    settings = {alias.upper() for name, field in fields().items() for alias in aliases(name, field)}
    settings |= {CREDENTIALS_VARIABLE, *OF_AN_ENGINE}
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(PREFIX) and name.upper() not in settings
    }
    return kept | dict.fromkeys(NO_FILES, os.devnull)


def make_clean() -> None:
    """Take the settings out of this process's environment; those of :data:`OF_TESTS` stay."""
    for name in os.environ.keys() - clean().keys() - OF_TESTS:
        del os.environ[name]
    os.environ.update(dict.fromkeys(NO_FILES, os.devnull))
