"""Webhook endpoints in Redis: each method is one atomic change or one look-up. Secrets are sealed, as bodies are."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Final

from broker.db.calls.webhooks import (
    WebhookCreate,
    WebhookDelete,
    WebhookPut,
    WebhookRotate,
    WebhookSecret,
    WebhookSet,
)
from broker.db.errors import TooManyWebhooksError
from broker.files import page_of_ids
from broker.jobs import StorePart
from broker.webhook_records import DeadLetter, Try, Webhook, dead_letter_of, event_of, try_of, webhook_of
from jobs.access import Actor, encoded, owns
from jobs.webhooks import (
    MOST_ENDPOINTS,
    OF_ONE_PREFIX,
    PING,
    TENANT_PREFIX,
    event_id,
    new_secret,
    subscription,
)

_FIELD: Final = "secret"
_STEP: Final = 500


class Webhooks(StorePart):
    """Endpoints of webhooks. :mod:`broker.webhook_outbox` is the side that delivers.

    ``owner``: the tenant that asks, for which another's endpoint does not exist; None: an admin, or a process of ours.
    ``by``: who asked, for the audit stream.
    """

    async def create(
        self,
        webhook_id: str,
        *,
        tenant: str,
        url: str,
        events: Collection[str] = (),
        description: str = "",
        by: Actor | None = None,
    ) -> tuple[Webhook, str]:
        """Record an endpoint; return it and its secret, which no later call returns.

        Args:
            url: checked before.
            events: types and groups; none: all.

        Raises:
            ValueError: a name in ``events`` is unknown.
            TooManyWebhooksError: the tenant has as many as it may.
        """
        secret = new_secret(os.urandom(32))
        call = WebhookCreate(
            id=webhook_id,
            tenant=tenant,
            url=url,
            events=" ".join(subscription(events)),
            secret=await self._sealed(webhook_id, secret),
            most=MOST_ENDPOINTS,
            description=description or None,
            by=encoded(by),
        )
        if not await self._call(call):
            raise TooManyWebhooksError(MOST_ENDPOINTS)
        made = await self.get(webhook_id)
        if made is None:
            raise LookupError(webhook_id)  # somebody deleted it meanwhile
        return made, secret

    async def get(self, webhook_id: str, *, owner: str | None = None) -> Webhook | None:
        """Read an endpoint; None: there is none."""
        found = await self._read([webhook_id])
        return found[0] if found and owns(owner, found[0].tenant) else None

    async def page(
        self, *, after: str | None, limit: int, owner: str | None = None
    ) -> tuple[list[Webhook], bool]:
        """List endpoints, newest first; return them, and whether more follow."""
        ids, more = await page_of_ids(self._store, "webhooks", after, limit, newest_first=True, owner=owner)
        return await self._read(ids), more

    async def update(
        self,
        webhook_id: str,
        changes: Mapping[str, Any],
        *,
        owner: str | None = None,
        by: Actor | None = None,
    ) -> bool:
        """Change an endpoint. False: there is none.

        Args:
            changes: of ``url``, ``events``, ``description`` and ``active``.

        Raises:
            ValueError: a name in ``events`` is unknown.
        """
        fields = {name: str(changes[name]) for name in ("url", "description") if name in changes}
        if "events" in changes:
            fields["events"] = " ".join(subscription(changes["events"]))
        if "active" in changes:
            fields["state"] = "active" if changes["active"] else "disabled"
        return await self._call(WebhookSet(webhook_id, fields, owner, encoded(by)))

    async def delete(self, webhook_id: str, *, owner: str | None = None, by: Actor | None = None) -> bool:
        """Delete an endpoint, and what it has not got. False: there is none."""
        return await self._call(WebhookDelete(webhook_id, owner, encoded(by)))

    # ---- secrets -----------------------------------------------------------------------------------------------

    async def rotate(
        self, webhook_id: str, *, overlap_ms: int, owner: str | None = None, by: Actor | None = None
    ) -> str | None:
        """Give an endpoint a new secret and return it; None: there is no such endpoint.

        Args:
            overlap_ms: how long the secret until now signs, too; an older one does no more.
        """
        secret = new_secret(os.urandom(32))
        sealed = await self._sealed(webhook_id, secret)
        done = await self._call(WebhookRotate(webhook_id, sealed, overlap_ms, owner, encoded(by)))
        return secret if done else None

    async def tenant_secret(self, tenant: str) -> str:
        """Return the secret that signs the events of a tenant's single jobs and batches. It is made at its first need."""
        ident = TENANT_PREFIX + tenant
        call = WebhookSecret(tenant, await self._sealed(ident, new_secret(os.urandom(32))))
        return await self._opened(ident, await self._call(call))

    async def signing_secrets(self, webhook_id: str, tenant: str) -> tuple[str, ...]:
        """Return the secrets that sign what an endpoint gets: the newest first; none: the endpoint is gone.

        Raises:
            SealingError: they cannot be decrypted.
        """
        ident = TENANT_PREFIX + tenant if webhook_id.startswith(OF_ONE_PREFIX) else webhook_id
        fields = (_FIELD, "secret2", "until2")
        stored = self._client.hmget(self._keys("webhook", ident), fields)
        secret, older, until = await self._execute(stored)
        kept = [secret] if secret is not None else []
        if older is not None and int(until) > await self._store.now_ms():
            kept.append(older)
        return tuple([await self._opened(ident, one) for one in kept])

    async def _sealed(self, ident: str, secret: str) -> str:
        return (await self._store.sealer.seal(ident, _FIELD, secret.encode())).decode()

    async def _opened(self, ident: str, stored: str) -> str:
        return (await self._store.sealer.open(ident, _FIELD, stored.encode()) or b"").decode()

    # ---- what was sent -----------------------------------------------------------------------------------------

    async def tries(
        self, webhook_id: str, *, after: str | None = None, limit: int, owner: str | None = None
    ) -> tuple[list[Try], bool] | None:
        """List tries to deliver, the newest first, and whether more follow; None: there is no such endpoint.

        Args:
            after: only those before this one's id.
        """
        return await self._entries("webhook_tries", webhook_id, try_of, after, limit, owner)

    async def dead(
        self, webhook_id: str, *, after: str | None = None, limit: int, owner: str | None = None
    ) -> tuple[list[DeadLetter], bool] | None:
        """List events that were given up, the newest first; see :meth:`tries`."""
        return await self._entries("webhook_dead", webhook_id, dead_letter_of, after, limit, owner)

    async def resend(
        self, webhook_id: str, event: str, *, owner: str | None = None, by: Actor | None = None
    ) -> bool:
        """Send an event again that is a dead letter or was tried. False: there is no such event, or no such endpoint.

        Args:
            event: its id.
        """
        if await self.get(webhook_id, owner=owner) is None:
            return False
        for key in ("webhook_dead", "webhook_tries"):
            found = await self._find(key, webhook_id, event)
            if found is not None:
                ident, fields = found
                again = event_of(fields)
                letter = ident if key == "webhook_dead" else None
                call = WebhookPut(
                    webhook_id,
                    again.id,
                    again.kind,
                    again.object_id,
                    again.at_ms,
                    letter,
                    owner,
                    encoded(by),
                )
                return await self._call(call)
        return False

    async def test(self, webhook_id: str, *, owner: str | None = None, by: Actor | None = None) -> str | None:
        """Send a ``ping``. Returns the event's id; None: there is no such endpoint."""
        event = event_id(os.urandom(16).hex(), PING)
        call = WebhookPut(webhook_id, event, PING, webhook_id, owner=owner, by=encoded(by))
        return event if await self._call(call) else None

    async def _find(self, key: str, webhook_id: str, event: str) -> tuple[str, Mapping[str, str]] | None:
        last, stream = "+", self._keys(key, webhook_id)
        while entries := await self._execute(self._client.xrevrange(stream, last, "-", _STEP)):
            for ident, fields in entries:
                if fields["event"] == event:
                    return ident, fields
            last = f"({entries[-1][0]}"
        return None

    async def _entries(
        self, key: str, webhook_id: str, made: Any, after: str | None, limit: int, owner: str | None
    ) -> tuple[list[Any], bool] | None:
        if await self.get(webhook_id, owner=owner) is None:
            return None
        last = "+" if after is None else f"({after}"
        stream = self._keys(key, webhook_id)
        entries = await self._execute(self._client.xrevrange(stream, last, "-", limit + 1))
        return [made(*entry) for entry in entries[:limit]], len(entries) > limit

    async def _read(self, ids: Collection[str]) -> list[Webhook]:
        pipe = self._client.pipeline(transaction=False)
        for ident in ids:
            pipe.hgetall(self._keys("webhook", ident))
            pipe.xlen(self._keys("webhook_outbox", ident))
            pipe.xlen(self._keys("webhook_dead", ident))
        found = iter(await self._execute(pipe.execute()) if ids else ())
        rows = zip(ids, found, found, found, strict=False)
        return [webhook_of(*row) for row in rows if "url" in row[1]]
