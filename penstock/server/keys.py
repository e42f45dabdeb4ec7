"""API keys without the api, on a machine that reaches Redis and has the pepper: such as the first key of a deployment."""

from __future__ import annotations

import asyncio
import os
import pwd
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from api.admin.key_schema import DAY_S, KeyRequest, key_view
from api.settings import ApiSettings
from broker.access import AccessStore, KeyRecord
from broker.db.client import connect
from broker.db.errors import KeyInactiveError, StoreError
from broker.jobs import JobStore
from jobs import access
from jobs.names import in_words
from penstock.errors import ArgumentError, ConflictError, NotFoundError
from penstock.key_models import ApiKey
from penstock.server.errors import starting
from penstock.server.first_key import kept_pepper
from penstock.server.valkey import EmbeddedServer

T = TypeVar("T")

_PAGE = 100


class DirectStartError(Exception):
    """Keys cannot be reached directly. The message says why and what to do."""


class DirectKeys:
    """As ``client.keys`` of the SDK. Its settings are the api's; without ``redis_url``, Redis is that of ``penstock up``.

    Raises:
        CommandFailed: a setting is wrong, there is no pepper, or Redis does not answer.
    """

    def __init__(self) -> None:
        starting("keys", self._open)

    def _open(self) -> None:
        settings = ApiSettings()
        text = settings.key_pepper.get_secret_value() if settings.key_pepper else None
        text = text or kept_pepper(settings.data_dir)
        if text is None:
            raise DirectStartError(
                "there is no key_pepper here: --direct needs that of the api (PENSTOCK_KEY_PEPPER, or the secret file "
                "penstock_key_pepper); a new one is made with `openssl rand -hex 32`"
            )
        embedded = EmbeddedServer(settings.data_dir)
        if "redis_url" not in settings.model_fields_set and embedded.socket_path.exists():
            settings = settings.model_copy(update={"redis_url": embedded.url})
        self._settings, self._pepper = settings, text.encode()

    def create(
        self,
        tenant: str,
        *,
        scopes: Sequence[str] | None = None,
        name: str | None = None,
        models: Sequence[str] | None = None,
        expires_in_s: int | None = None,
    ) -> ApiKey:
        """Make a key."""
        given = {
            "tenant": tenant,
            "scopes": scopes,
            "name": name,
            "models": models,
            "expires_in_s": expires_in_s,
        }
        try:
            asked = KeyRequest.model_validate(
                {key: value for key, value in given.items() if value is not None}
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ArgumentError(f"{first['loc'][0]}: {in_words(first)}") from None
        key = access.ApiKey.new()

        async def act(keys: AccessStore) -> KeyRecord:
            return await keys.create(
                key,
                self._pepper,
                tenant=asked.tenant,
                scopes=asked.scopes,
                name=asked.name,
                models=asked.models,
                expires_in_ms=None if asked.expires_in_s is None else asked.expires_in_s * 1000,
                by=_by(),
            )

        return _shown(self._run(act), key)

    def list(self, *, tenant: str | None = None, limit: int | None = None) -> Iterator[ApiKey]:
        """List keys, newest first."""

        async def act(keys: AccessStore) -> list[KeyRecord]:
            found: list[KeyRecord] = []
            more = True
            while more and (limit is None or len(found) < limit):
                after = found[-1].id if found else None
                page, more = await keys.page(tenant=tenant, after=after, limit=_PAGE)
                found += page
            return found[:limit]

        return map(_shown, self._run(act))

    def rotate(self, key_id: str, overlap_s: int | None = None) -> ApiKey:
        """Give a key a new secret."""
        key = access.ApiKey.new(_checked(key_id))
        overlap_ms = (DAY_S if overlap_s is None else overlap_s) * 1000

        async def act(keys: AccessStore) -> KeyRecord:
            return await keys.rotate(key, self._pepper, overlap_ms=overlap_ms, by=_by())

        return _shown(self._run(act, key_id), key)

    def revoke(self, key_id: str) -> ApiKey:
        """Revoke a key."""
        _checked(key_id)

        async def act(keys: AccessStore) -> KeyRecord | None:
            await keys.revoke(key_id, _by())
            return await keys.get(key_id)

        record = self._run(act)
        if record is None:
            raise _not_found(key_id)
        return _shown(record)

    def _run(self, act: Callable[[AccessStore], Awaitable[T]], key_id: str = "") -> T:
        async def run() -> T:
            store = JobStore(connect(self._settings.redis_url), self._settings)
            try:
                return await act(AccessStore(store))
            except StoreError as error:
                raise DirectStartError(str(error)) from error
            finally:
                await store.aclose()

        try:
            done: list[T] = []
            starting("keys", lambda: done.append(asyncio.run(run())))
            return done[0]
        except LookupError:
            raise _not_found(key_id) from None
        except KeyInactiveError as error:
            raise ConflictError(str(error), status=409, code="key_inactive") from None


def _shown(record: KeyRecord, key: Any = None) -> ApiKey:
    view = key_view(record, int(time.time() * 1000))
    return ApiKey.model_validate(view | ({} if key is None else {"key": str(key)}))


def _checked(key_id: str) -> str:
    if not access.is_key_id(key_id):
        raise _not_found(key_id)
    return key_id


def _not_found(key_id: str) -> NotFoundError:
    return NotFoundError(f"there is no API key {key_id!r}", status=404, code="key_not_found")


def _by() -> access.Actor:
    """Who acts, for the audit stream: this machine's user."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        user = str(os.getuid())
    return access.Actor(f"direct:{user}", access.DEFAULT_TENANT)
