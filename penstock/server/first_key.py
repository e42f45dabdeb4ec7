"""What ``penstock up`` needs so that keys can be required: a pepper, and an administrator's key. Both are kept in files."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from api.settings import ApiSettings
from broker.access import AccessStore
from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.access import DEFAULT_TENANT, ApiKey, Scope
from penstock.cli._local import KEY_FILE

PEPPER_FILE = "pepper"


class KeyFileStartError(Exception):
    """A file of keys cannot be read or written. The message names it."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """The pepper of this machine.

    Attributes:
        pepper: for the first key; None: no keys are required.
        kept: the one from the file, for the api, which does not look there; None: a setting has it, or there is none.
    """

    pepper: bytes | None = field(repr=False)
    kept: str | None = field(repr=False)

    @classmethod
    def of(cls, api: ApiSettings, data_dir: Path) -> Self:
        """Find the pepper; make one if keys are required and there is none.

        Raises:
            KeyFileStartError: its file cannot be read or written.
        """
        if api.key_pepper is not None:
            given = api.key_pepper.get_secret_value().encode()
            return cls(given if api.keys_required else None, None)
        kept = kept_pepper(data_dir)
        if kept is None and api.keys_required:
            kept = secrets.token_hex(32)
            _write(data_dir / PEPPER_FILE, kept)
        return cls(kept.encode() if kept is not None and api.keys_required else None, kept)


@dataclass(frozen=True, slots=True)
class FirstKey:
    """The administrator's key.

    Attributes:
        text: it.
        path: its file.
        new: it was made just now.
        wrong: why it lets nobody in, and what to do; empty: it does.
    """

    text: str = field(repr=False)
    path: Path
    new: bool = False
    wrong: str = ""


def kept_pepper(data_dir: Path) -> str | None:
    """Return the pepper of the data directory; None: there is none.

    Raises:
        KeyFileStartError: its file cannot be read.
    """
    return _read(data_dir / PEPPER_FILE)


async def first_key(redis_url: str, settings: BrokerSettings, pepper: bytes) -> FirstKey:
    """Find the administrator's key in its file, or make one; and see to it that Redis knows it.

    Raises:
        KeyFileStartError: its file cannot be read or written.
        StoreError: Redis does not answer.
    """
    path = settings.data_dir / KEY_FILE
    text = _read(path)
    key = None if text is None else ApiKey.parse(text)
    if text is not None and key is None:
        return FirstKey(text, path, wrong="it is no key; delete the file, and the next start makes one")
    new = key is None
    key = key or ApiKey.new()
    if new:
        _write(path, str(key))  # first: a key that only Redis had would be nobody's
    store = JobStore(connect(redis_url), settings)
    try:
        access = AccessStore(store)
        found = await access.find(key.id)
        if found.digest is None:
            await access.create(
                key, pepper, tenant=DEFAULT_TENANT, scopes=[Scope.ADMIN], name=f"penstock up ({KEY_FILE})"
            )
        elif found.revoked or key.digest(pepper) not in {found.digest, found.digest2}:
            why = "it was revoked or rotated, or the pepper is another"
            return FirstKey(str(key), path, wrong=f"{why}; delete the file, and the next start makes one")
    finally:
        await store.aclose()
    return FirstKey(str(key), path, new)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyFileStartError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError:  # without the original, which quotes it
        raise KeyFileStartError(f"{path} is damaged; delete it, and the next start makes another") from None


def _write(path: Path, text: str) -> None:
    """Write a file that only this user can read, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.new")
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise KeyFileStartError(f"{path} cannot be written: {error.strerror}") from error
