"""Tests that need a container engine, or gigabytes of packages."""

from __future__ import annotations

from tests.browser import (  # noqa: F401 - fixtures
    browser,
    page,
)
