"""One request for a page: who asks, and what the API answers to them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Scope

from api.console.inside import MOST_BYTES, Answer, ask, segment
from jobs.lanes import Lane


class Refused(Exception):  # noqa: N818 - the API's answer, which is often no error
    """The API answered something other than a success.

    Attributes:
        status: its HTTP status.
        code: its error code.
        message: what it says to people.
        retry_after_s: seconds to wait, if it names them.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_s: str | None = None) -> None:
        self.status, self.code, self.message, self.retry_after_s = status, code, message, retry_after_s
        super().__init__(message)

    @classmethod
    def by(cls, answer: Answer) -> Refused:
        """Read the API's answer."""
        body = answer.json()
        error = body.get("error") if isinstance(body, dict) else None
        detail: dict[str, Any] = error if isinstance(error, dict) else {}
        message = str(detail.get("message") or f"the server answered {answer.status}")
        return cls(answer.status, str(detail.get("code") or ""), message, answer.headers.get("retry-after"))


class Visit:
    """A request for a page.

    Args:
        app: the application.
        scope: the request's.
        credential: of the session; None: no keys are required, or nobody is signed in.
        path: of the page, with its query; another one than the request's if that asks for a page's parts.
        params: of the page's path.
        keyed: whether keys are required.
        anew: whether only those parts of the page are made that change while it is open.

    Attributes:
        me: the answer of ``GET /v1/me``; empty before :meth:`introduce`.
        query: of the page.
        root: relative address of the server's root, so that links hold behind a proxy that adds a path.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        credential: str | None,
        path: str,
        params: Mapping[str, str],
        *,
        keyed: bool,
        anew: bool = False,
    ) -> None:
        self._app, self._credential, self._keyed = app, credential, keyed
        self.anew = anew
        self.scope = scope
        self.path, _, query = path.partition("?")
        self.query = QueryParams(query)
        self.params = params
        self.root = "../" * (self.path.count("/") - 1)
        self.me: dict[str, Any] = {}

    async def introduce(self) -> None:
        """Find out who asks.

        Raises:
            Refused: 401, nobody who may.
        """
        if self._keyed and self._credential is None:
            raise Refused(401, "invalid_api_key", "you are not signed in, or no longer")
        self.me = await self.get("/v1/me")

    def may(self, scope: str) -> bool:
        """Whether the visitor has a scope. What needs one that is missing is not shown; the API would refuse it."""
        return scope in self.me.get("scopes", ())

    @property
    def lanes(self) -> list[str]:
        """The lanes that the visitor may submit work to; an administrator moves any tenant's jobs to all."""
        return list(Lane) if self.may("admin") else self.me["lanes"]

    async def get(self, path: str, **params: Any) -> Any:
        """Return what the API answers to a GET. ``params``: of the query; those that are None are left out.

        Raises:
            Refused: no success.
        """
        answer = await self.answer("GET", path, params=params)
        if answer.status >= 400:
            raise Refused.by(answer)
        return answer.json()

    async def kept(self, path: str, ids: Collection[str]) -> set[str]:
        """Return those objects that are still there. ``path``: of their list."""
        asked = [self.answer("GET", f"{path}/{segment(one)}", most_bytes=0) for one in ids]
        answers = await asyncio.gather(*asked)
        return {one for one, answer in zip(ids, answers, strict=True) if answer.status < 400}

    async def answer(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> Answer:
        """Call the API. See :func:`api.console.inside.ask`."""
        return await ask(
            self._app,
            method,
            path,
            asker=self.scope,
            credential=self._credential,
            params=params,
            body=body,
            headers=headers,
            most_bytes=most_bytes,
        )
