"""API keys, for both clients: ``client.keys``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from penstock._core.flows import Flow, Items
from penstock._core.parts import Call, Driver, Iteration, Part
from penstock._core.requests import Request, given, segment, with_json
from penstock.key_models import ApiKey
from penstock.models import Page


class Keys(Part[Driver]):
    """Make, list, rotate and revoke API keys. It needs a key with the scope ``admin``. Every call raises PenstockError.

    A change is known to every process of the server within two seconds.
    """

    @Call
    def create(
        self,
        tenant: str,
        *,
        scopes: Sequence[str] | None = None,
        name: str | None = None,
        models: Sequence[str] | None = None,
        expires_in_s: int | None = None,
    ) -> Flow[ApiKey]:
        """Make a key, and return it with its secret, which the server does not keep.

        If the answer is lost, the request is not repeated: look for the key in the list, and revoke it.

        Args:
            tenant: whose objects it makes and sees.
            scopes: what it may do; None: everything of its own tenant.
            name: for people.
            models: the models that it may use; None: every one of its tenant.
            expires_in_s: seconds until it expires; None: it does not.

        Raises:
            BadRequestError: a value is not valid.
            ConflictError: the server has no pepper (``no_pepper``).
        """
        body = given(
            tenant=tenant,
            scopes=None if scopes is None else list(scopes),
            name=name,
            models=None if models is None else list(models),
            expires_in_s=expires_in_s,
        )
        request = replace(with_json("POST", "/v1/admin/keys", body), at_most_once=True)
        return self._fetch(request, ApiKey)

    @Iteration
    def list(
        self, *, tenant: str | None = None, limit: int | None = None, page_size: int = 100
    ) -> Items[ApiKey]:
        """Iterate over the keys, newest first, revoked ones too.

        Args:
            tenant: only keys of this tenant.
            limit: the most keys to return; None returns all.
            page_size: keys per request, 1 to 100.
        """
        return self._pages("/v1/admin/keys", Page[ApiKey], limit, page_size, tenant=tenant)

    @Call
    def get(self, key_id: str) -> Flow[ApiKey]:
        """Return a key, without its secret.

        Raises:
            NotFoundError: there is no such key (``key_not_found``).
        """
        return self._fetch(Request("GET", _path(key_id)), ApiKey)

    @Call
    def rotate(self, key_id: str, overlap_s: int | None = None) -> Flow[ApiKey]:
        """Give a key a new secret, and return it with that.

        If the answer is lost, the request is not repeated: rotate again.

        Args:
            key_id: the key.
            overlap_s: seconds for which the secret until now stays right, 0 for none; None: a day.

        Raises:
            NotFoundError: there is no such key (``key_not_found``).
            ConflictError: it was revoked or has expired (``key_inactive``).
        """
        request = with_json("POST", f"{_path(key_id)}/rotate", given(overlap_s=overlap_s))
        # The second would end the overlap of the first.
        return self._fetch(replace(request, at_most_once=True), ApiKey)

    @Call
    def revoke(self, key_id: str) -> Flow[ApiKey]:
        """Revoke a key, for good, and return it.

        Raises:
            NotFoundError: there is no such key (``key_not_found``).
        """
        return self._fetch(Request("DELETE", _path(key_id)), ApiKey)


def _path(key_id: str) -> str:
    return "/v1/admin/keys/" + segment(key_id, "the key's id")
