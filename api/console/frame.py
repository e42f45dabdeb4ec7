"""What every page shares: the session, the navigation, errors, and how a page is asked for and answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from starlette.routing import compile_path

from api.console.render import Templates
from api.console.session import Sessions
from api.console.visit import Refused, Visit
from api.http.asgi import header
from api.services import Services

Load: TypeAlias = Callable[[Visit], Awaitable[dict[str, Any]]]
"""Asks the API for what a page shows. It may raise :class:`Refused`."""

HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
HTML: Final = "text/html; charset=utf-8"

_THEME = "penstock_theme"


@dataclass(frozen=True, slots=True)
class Entry:
    """A page's entry in the navigation.

    Attributes:
        group: the heading that it stands under.
        icon: of :file:`templates/_ui.html`.
        scope: it is shown to those who have it.
        lane: and who may submit work to this one; None: that does not matter.
    """

    group: str
    icon: str
    scope: str
    lane: str | None = None

    def is_for(self, visit: Visit) -> bool:
        """Whether a visitor may use the page."""
        return visit.may(self.scope) and (self.lane is None or self.lane in visit.lanes)


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        path: such as ``/console/jobs/{job_id}``.
        template: its file. Its blocks named ``live_…`` are sent anew while it is open.
        title: its heading, and its name in the navigation.
        load: what it shows.
        entry: in the navigation; None: it has none.
        within: the page whose entry is marked while this one is open.
        live: whether its parts are sent anew while it is open.
    """

    path: str
    template: str
    title: str
    load: Load
    entry: Entry | None = None
    within: str | None = None
    live: bool = True


class Frame:
    """The pages.

    Args:
        services: the api's.
        sessions: who is signed in; None: no keys are required.
    """

    def __init__(self, services: Services, sessions: Sessions | None) -> None:
        self.services, self.sessions = services, sessions
        self.templates = Templates()
        self.pages: list[Page] = []

    def add(self, router: APIRouter, page: Page) -> None:
        """Add a page, and its entry in the navigation. The order of the calls is the order there."""
        self.pages.append(page)

        @router.get(page.path, include_in_schema=False)
        async def show(request: Request) -> Response:
            return await self._show(page, request)

    def find(self, path: str) -> tuple[Page, Mapping[str, str]] | None:
        """Return the page of a path, and the parameters in it."""
        for page in self.pages:
            match = compile_path(page.path)[0].match(path)
            if match:
                return page, match.groupdict()
        return None

    def visit(self, request: Request, path: str, params: Mapping[str, str], *, anew: bool = False) -> Visit:
        """Begin a visit of a page. ``anew``: only those parts are made that change while it is open."""
        credential = None if self.sessions is None else self.sessions.of(request.scope)
        keyed = self.sessions is not None
        return Visit(request.app, request.scope, credential, path, params, keyed=keyed, anew=anew)

    async def data(self, page: Page, visit: Visit) -> dict[str, Any]:
        """Return what a page's template shows.

        Raises:
            Refused: the visitor is not signed in, or the API refuses what the page asks for.
        """
        await visit.introduce()
        return {**await self._around(visit, page), **await page.load(visit)}

    async def missing(self) -> dict[str, str]:
        """Return what is wrong with this server, by the names of its checks; empty: it is ready."""
        report = await self.services.readiness.report()
        return {name: report.checks[name] for name in report.missing}

    def answer(self, template: str, data: Mapping[str, Any], status: int = 200) -> Response:
        """Return a page as a response."""
        return Response(self.templates.page(template, data), status, HEADERS, HTML)

    async def _show(self, page: Page, request: Request) -> Response:
        url = request.scope["path"] + (f"?{request.url.query}" if request.url.query else "")
        visit = self.visit(request, url, request.path_params)
        if self.sessions is not None and self._from_elsewhere(request):
            # The cookie is not sent along a link of another site. Our own page asks again, and then it is.
            return self.answer("again.html", {"root": visit.root})
        try:
            data = await self.data(page, visit)
        except Refused as refused:
            return await self._refuse(refused, page, visit)
        return self.answer(page.template, data)

    def _from_elsewhere(self, request: Request) -> bool:
        return header(request.scope, b"sec-fetch-site") == b"cross-site"

    async def _refuse(self, refused: Refused, page: Page, visit: Visit) -> Response:
        if refused.status == 401:
            asked = visit.path + (f"?{visit.query}" if visit.query else "")
            there = f"{visit.root}console/login?next={quote(asked, safe='')}"
            return Response(None, 303, {**HEADERS, "location": there})
        first = self._first(visit)
        if page is self.pages[0] and first not in {
            None,
            page,
        }:  # the start of everybody, which shows the queues
            return Response(None, 303, {**HEADERS, "location": visit.root + first.path[1:]})
        # What is not there, or not allowed, does not change while somebody looks at it.
        shown = {**await self._around(visit, page), "refused": refused, "live": refused.status >= 500}
        return self.answer("error.html", shown, refused.status)

    async def _around(self, visit: Visit, page: Page) -> dict[str, Any]:
        """Return what the layout shows around every page."""
        theme = Request(visit.scope).cookies.get(_THEME)
        return {
            "visit": visit,
            "me": visit.me,
            "may": visit.may,
            "may_use": visit.lanes if visit.me else [],
            "root": visit.root,
            "query": visit.query,
            "title": page.title,
            "path": visit.path,
            "live": page.live,
            "theme": theme if theme in {"light", "dark"} else None,
            "entries": self._entries(visit, page.within or page.path),
            "missing": await self.missing(),
            "flower": self.services.settings.flower_url,
        }

    def _first(self, visit: Visit) -> Page | None:
        """Return the first page that the visitor may see; None: there is none."""
        return next((one for one in self.pages if one.entry is not None and one.entry.is_for(visit)), None)

    def _entries(self, visit: Visit, here: str) -> list[tuple[str, list[tuple[Page, bool]]]]:
        """Return the navigation: its groups, each with its pages and whether that is the open one."""
        groups: dict[str, list[tuple[Page, bool]]] = {}
        for one in self.pages:
            if one.entry is not None and one.entry.is_for(visit):
                groups.setdefault(one.entry.group, []).append((one, one.path == here))
        return list(groups.items())
