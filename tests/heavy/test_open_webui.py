"""Open WebUI, in a real browser, chats through Penstock: the answer on its page is the one in the job's record."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from tests.e2e.stacks import Stack, start_stack, stop_stack
from tests.processes import ROOT
from tests.support import free_port, wait_until

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]

VENV = Path(os.environ.get("PENSTOCK_OPEN_WEBUI") or ROOT / ".venv-open-webui")
# What docker-compose.yml sets, and what keeps it from asking the network for anything.
SETTINGS = {
    "ENABLE_OLLAMA_API": "false",
    "WEBUI_SECRET_KEY": "of-this-test",
    "WEBUI_AUTH": "false",
    "OFFLINE_MODE": "true",
    "HF_HUB_OFFLINE": "1",
    "RAG_EMBEDDING_ENGINE": "openai",
    "ENABLE_TITLE_GENERATION": "false",
    "ENABLE_TAGS_GENERATION": "false",
    "ENABLE_FOLLOW_UP_GENERATION": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "DO_NOT_TRACK": "true",
    "SCARF_NO_ANALYTICS": "true",
}


@pytest.fixture(scope="module")
def penstock() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="ps") as folder:
        stack = start_stack(
            Path(folder),
            "--engine=simulated",
            PENSTOCK_SIMULATED_TTFT_S="0.1",
            PENSTOCK_SIMULATED_INTER_TOKEN_S="0.02",
        )
        yield stack
        stop_stack(stack)


@pytest.fixture(scope="module")
def open_webui(penstock: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    program = VENV / "bin" / "open-webui"
    assert program.exists(), "`make test-open-webui` installs it"
    folder = tmp_path_factory.mktemp("open-webui")
    port = free_port()
    clean = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    own = {"DATA_DIR": str(folder), "OPENAI_API_BASE_URL": f"{penstock.url}/v1", "OPENAI_API_KEY": "none"}
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(
            [program, "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            stdout=out,
            stderr=out,
            env=clean | SETTINGS | own,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        try:
            return httpx.get(f"{url}/health", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(up, 300)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def answers(penstock: Stack) -> list[str]:
    """The texts of all finished jobs."""
    jobs = httpx.get(f"{penstock.url}/v1/jobs", params={"state": "succeeded"}).json()["data"]
    results = [httpx.get(f"{penstock.url}/v1/jobs/{job['id']}/result").json() for job in jobs]
    return [result["choices"][0]["message"]["content"] for result in results]


def test_it_chats(penstock: Stack, open_webui: str, page: Page) -> None:
    page.set_default_timeout(60_000)
    box = page.locator("#chat-input")

    def opened() -> bool:
        """Open the page: it shows an error of its own where its server, which has just started, is slow to answer."""
        page.goto(open_webui)
        try:
            box.wait_for(timeout=20_000)
        except PlaywrightTimeout:
            return False
        return True

    wait_until(opened, 120)
    expect(page.locator("body")).to_contain_text("simulated")
    page.get_by_role("button", name="Okay, Let's Go!").click()  # what is new in this version
    box.click()
    page.keyboard.type("Why is the sky blue?")
    page.keyboard.press("Enter")
    wait_until(lambda: answers(penstock), 60)
    (text,) = answers(penstock)
    assert len(text) > 20
    expect(page.locator("body")).to_contain_text(" ".join(text.split()[:8]), timeout=60_000)
    if folder := os.environ.get("PENSTOCK_SCREENSHOTS"):
        page.set_viewport_size({"width": 1100, "height": 640})
        page.screenshot(path=Path(folder) / "open-webui.png")
