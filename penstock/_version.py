"""The version of the package, in one place: the wheel, ``penstock --version`` and the User-Agent read it."""

from __future__ import annotations

__version__ = "0.1.0"
