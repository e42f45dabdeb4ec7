"""The reference at ``/docs``: Swagger UI, whose files this server sends itself, so that it works without the internet."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from api.http.errors import ApiError
from api.services import Services

_SCRIPT, _STYLE, _ICON = "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"
_TYPES = {_SCRIPT: "text/javascript", _STYLE: "text/css", _ICON: "image/png"}
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
}


def register(router: APIRouter, services: Services) -> None:  # noqa: ARG001 - as every module of a room
    """Add the routes."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Penstock",
        swagger_js_url=f"docs/{_SCRIPT}",
        swagger_css_url=f"docs/{_STYLE}",
        swagger_favicon_url=f"docs/{_ICON}",
        swagger_ui_parameters={"validatorUrl": None, "displayRequestDuration": True},
    )

    @router.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """The page."""
        return HTMLResponse(page.body, headers=_HEADERS)

    @router.get("/docs/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        """One of its files."""
        if name not in _TYPES:
            raise ApiError(404, "this file does not exist; GET /docs is the reference", "not_found")
        return Response(_read(name), 200, {"cache-control": "public, max-age=86400"}, _TYPES[name])


@cache
def _read(name: str) -> bytes:
    """Read a file of Swagger UI, which the package fastapi-swagger brings."""
    return (files("fastapi_swagger") / "resources" / name).read_bytes()
