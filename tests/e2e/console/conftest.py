"""The console in a real browser, beside a worker with the simulated engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.namespaces import new_namespace
from tests.processes import WorkerProcess
from tests.support import wait_until

TOKEN_S = 0.005


@pytest.fixture(scope="module")
def console(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An api without keys, and a worker that takes two jobs at once."""
    settings = new_namespace(valkey)
    log = tmp_path_factory.mktemp("console") / "worker.log"
    with ApiServer(settings) as api:
        worker = WorkerProcess(settings, log, concurrency=2, simulated_inter_token_s=TOKEN_S)
        try:
            wait_until(worker.is_ready)
            wait_until(lambda: httpx.get(f"{api.url}/health/ready").status_code == 200)
            yield api
        finally:
            worker.close()


@pytest.fixture
def http(console: ApiServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=console.url, timeout=20) as client:
        yield client


@pytest.fixture
def said(page: Page) -> Iterator[list[str]]:
    """Errors in the browser's console; a test must leave none."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    yield said
    assert said == []


def check_accessible(page: Page) -> None:
    """Fail for what axe finds wrong. The dark theme differs in its colours alone."""
    schemes: dict[Literal["light", "dark"], dict[str, list[str]]] = {
        "light": {},
        "dark": {"runOnly": ["color-contrast"]},
    }
    for scheme, rules in schemes.items():
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found = Axe().run(page, options={"resultTypes": ["violations"], **rules})
        assert found.violations_count == 0, f"{page.url}, {scheme}: {found.generate_report()}"
