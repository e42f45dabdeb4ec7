"""Keys of the setting ``api_keys``: Redis takes them over once."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from broker.access import AccessStore
from jobs.access import given_key

log = structlog.get_logger(__name__)


class GivenKeys:
    """The keys of the setting.

    Args:
        keys: by tenant.
        pepper: under which their digests are made.
    """

    def __init__(self, store: AccessStore, keys: Mapping[str, str], pepper: bytes) -> None:
        self._store, self._keys, self._pepper = store, keys, pepper
        self._looked = False

    async def take_over(self, *, done: bool) -> bool:
        """Have Redis take them over. Return whether it has.

        Args:
            done: it has; then it is asked once what became of them, for the warnings.
        """
        if not self._keys or (done and self._looked):
            return done
        answer = await self._store.take_over(self._keys, self._pepper)
        self._looked = True
        tenants = {given_key(text, self._pepper).id: tenant for tenant, text in self._keys.items()}
        if answer.first:
            log.warning("api_keys_taken_over", keys=sorted(tenants))
        if answer.strange:
            log.warning("api_keys_ignored", tenants=sorted(tenants[key] for key in answer.strange))
        if answer.missing:
            log.warning("api_keys_still_valid", keys=sorted(answer.missing))
        return True
