"""Routes that are called without FastAPI's router."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from api.app import create_app
from api.http.asgi import RawRoute, add_raw_route, direct_routes
from api.settings import ApiSettings
from jobs.endpoints import ENDPOINTS


async def raw(scope: Any, receive: Any, send: Any) -> None:
    del scope, receive, send


def test_every_endpoint_is_called_directly() -> None:
    direct = direct_routes(create_app(ApiSettings()).router.routes)
    assert {("POST", path) for path in ENDPOINTS} <= direct.keys()
    assert all(route.path == path and isinstance(route, RawRoute) for (_, path), route in direct.items())


def test_routes_with_parameters_need_the_router() -> None:
    router = APIRouter()
    add_raw_route(router, "GET", "/v1/things/{thing}", raw)
    assert not direct_routes(router.routes)


def test_a_route_behind_another_that_takes_its_path_is_left_out() -> None:
    router = APIRouter()
    add_raw_route(router, "GET", "/v1/{thing}", raw)
    add_raw_route(router, "GET", "/v1/things", raw)
    add_raw_route(router, "POST", "/v1/things", raw)
    assert list(direct_routes(router.routes)) == [("POST", "/v1/things")]
