"""Signing in with a key or a token, and signing out."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Request, Response

from api.console.frame import HEADERS, Frame
from api.console.origin import check_own, is_secure
from api.console.session import Sessions, TooLongError, cookie
from api.console.visit import Refused, Visit
from api.http.body import BodyReader
from api.http.errors import ApiError

START: Final = "/console"
_FORM_BYTES: Final = 16 * 1024
_OWN_PAGE = re.compile(r"/console(/[^\s\\]*|\?[^\s\\]*)?")

_WRONG = "Incorrect API key. Check that you pasted all of it; it may also have been revoked."
_TOO_LONG = "This token is too long for a browser's cookie. Use an API key, or a token with fewer claims."
_FORM = (
    "Paste the whole API key, such as psk_…, or a token of your issuer: letters, digits and signs, no spaces."
)


def register(router: APIRouter, frame: Frame) -> None:
    """Add the routes."""
    sessions, origins = frame.sessions, frame.services.settings.page_origins

    @router.get("/console/login", include_in_schema=False)
    async def ask(request: Request) -> Response:
        """The form; where no keys are required, the console itself."""
        if sessions is None:
            return _go("../console")
        return _form(frame, request, _next(request.query_params.get("next")))

    @router.post("/console/login", include_in_schema=False)
    async def enter(request: Request) -> Response:
        """Let in who has a right key. It is judged, and wrong ones are counted, as in any call."""
        if sessions is None:
            return _go("../console")
        try:
            check_own(request.scope, origins, marked=False)
            given = await _read(request)
        except ApiError as refusal:
            return _form(frame, request, START, refusal.message, refusal.status)
        there = _next(given.get("next"))
        return await _enter(frame, sessions, request, given.get("key", "").strip(), there)

    @router.post("/console/logout", include_in_schema=False)
    async def leave(request: Request) -> Response:
        """End the session: the cookie is deleted."""
        if sessions is None:
            return _go("../console")
        try:
            check_own(request.scope, origins, marked=False)
        except ApiError as refusal:
            return _form(frame, request, START, refusal.message, refusal.status)
        response = _go("../console/login")
        response.headers["set-cookie"] = cookie("", secure=is_secure(request.scope))
        return response


async def _enter(frame: Frame, sessions: Sessions, request: Request, key: str, there: str) -> Response:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        return _form(frame, request, there, _FORM, 400)
    answer = await Visit(request.app, request.scope, key, START, {}, keyed=True).answer("GET", "/v1/me")
    if answer.status != 200:
        message = Refused.by(answer).message
        wrong = message.startswith(
            "Incorrect API key"
        )  # the rest is about a header, which nobody here has written
        return _form(frame, request, there, _WRONG if wrong else message, answer.status)
    try:
        value = sessions.seal(key)
    except TooLongError:
        return _form(frame, request, there, _TOO_LONG, 400)
    response = _go("../" + quote(there.removeprefix("/"), safe="/?=&%+"))
    response.headers["set-cookie"] = cookie(value, secure=is_secure(request.scope))
    return response


def _form(
    frame: Frame, request: Request, there: str, error: str | None = None, status: int = 200
) -> Response:
    theme = request.cookies.get("penstock_theme")
    data = {
        "root": "../",
        "title": "Sign in",
        "next": there,
        "error": error,
        "theme": theme if theme in {"light", "dark"} else None,
    }
    response = frame.answer("login.html", data, status)
    if status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


def _go(there: str) -> Response:
    return Response(None, 303, {**HEADERS, "location": there})


def _next(given: str | None) -> str:
    """Return the page to show after signing in: one of ours, whatever the query says."""
    return given if given is not None and _OWN_PAGE.fullmatch(given) else START


async def _read(request: Request) -> dict[str, str]:
    """Return the form's fields.

    Raises:
        ApiError: 413, it is too long for one.
    """
    reader = BodyReader(request.receive, _FORM_BYTES)
    await reader.read(_FORM_BYTES)
    text = reader.take().decode("latin-1")
    return {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items()}
