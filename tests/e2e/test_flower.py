"""Flower in a real browser: each job is a task with its job id and its state; Terminate is our cancel."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.stacks import Stack
from tests.support import wait_until

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = (
        os.environ.get("PENSTOCK_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    )
    assert executable, "the browser tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    page.set_default_timeout(20_000)
    yield page
    page.close()


def submit(stack: Stack, **body) -> str:
    payload = {"model": "simulated", "messages": [{"role": "user", "content": "hi"}]} | body
    return httpx.post(f"{stack.url}/v1/jobs", json={"input": payload}).raise_for_status().json()["id"]


def state(stack: Stack, job_id: str) -> str:
    return httpx.get(f"{stack.url}/v1/jobs/{job_id}", params={"wait": 5}, timeout=30).json()["state"]


def open_task(page: Page, stack: Stack, job_id: str, shown: str) -> None:
    """Open a task's page once Flower has heard of its state; the page does not refresh itself."""

    def loaded() -> bool:
        page.goto(f"{stack.flower_url}/task/{job_id}")
        return shown in page.locator("body").inner_text()

    wait_until(loaded)


def test_jobs_are_tasks_with_their_ids_and_states(stack: Stack, page: Page) -> None:
    good = submit(stack, max_tokens=3)
    bad = submit(stack, max_tokens=-1)
    assert state(stack, good) == "succeeded"
    assert state(stack, bad) == "failed"
    for job_id, shown in ((good, "SUCCESS"), (bad, "FAILURE")):
        open_task(page, stack, job_id, shown)
        expect(page.locator("body")).to_contain_text(job_id)
        expect(page.locator("body")).to_contain_text("penstock.run")
    expect(page.locator("body")).to_contain_text("invalid_request")
    page.goto(f"{stack.flower_url}/tasks")
    expect(page.locator("#tasks-table")).to_contain_text(good)
    page.goto(f"{stack.flower_url}/workers")
    expect(page.locator("#workers-table")).to_contain_text("Online")


def test_terminate_cancels_the_job(stack: Stack, page: Page) -> None:
    job_id = submit(stack, max_tokens=20_000)
    wait_until(lambda: httpx.get(f"{stack.url}/v1/jobs/{job_id}").json()["state"] == "running")
    page.on("dialog", lambda dialog: dialog.accept())
    open_task(page, stack, job_id, "STARTED")
    page.get_by_role("button", name="Terminate").click()
    assert wait_until(lambda: state(stack, job_id) == "cancelled")
    open_task(page, stack, job_id, "REVOKED")
