"""Every route names its scope, and checks it."""

from __future__ import annotations

import pytest
from fastapi import APIRouter

from api.access.scopes import ROUTES, require_scopes
from api.app import create_app
from api.settings import ApiSettings


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert create_app(ApiSettings()).routes  # it would raise


def test_a_route_without_a_row_stops_the_start() -> None:
    router = APIRouter()
    router.add_api_route("/v1/secret", lambda: None, methods=["GET"])
    with pytest.raises(LookupError, match=r"no scope is named for \('GET', '/v1/secret'\)"):
        require_scopes(router.routes)


def test_a_row_without_a_route_stops_the_start() -> None:
    with pytest.raises(LookupError, match="there is no such route"):
        require_scopes([])
    assert ROUTES
