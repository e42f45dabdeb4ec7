"""Flower in a real browser: each job is a task with its job id and its state; Terminate is our cancel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Error, HttpCredentials, Page, expect

from tests.e2e.stacks import Stack, start_stack, stop_stack
from tests.support import wait_until

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("stack")]


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


LOGIN = ("operator", "correct-horse")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose Flower has a login, and shows two workers."""
    stack = start_stack(
        tmp_path_factory.mktemp("locked"),
        "--engine=simulated",
        "--workers=2",
        PENSTOCK_FLOWER_BASIC_AUTH=":".join(LOGIN),
        PENSTOCK_SIMULATED_INTER_TOKEN_S="0.02",
    )
    yield stack
    stop_stack(stack)


def test_without_the_login_nothing_is_seen(locked: Stack, browser: Browser) -> None:
    answer = httpx.get(f"{locked.flower_url}/workers")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    logins: list[HttpCredentials | None] = [None, {"username": LOGIN[0], "password": "wrong"}]
    for login in logins:
        context = browser.new_context(http_credentials=login)
        assert refused(context.new_page(), f"{locked.flower_url}/workers")
        context.close()


def refused(page: Page, url: str) -> bool:
    """Whether a page is not shown for want of a login: Chromium shows the 401, or gives up before."""
    try:
        answer = page.goto(url)
    except Error as error:
        return "ERR_INVALID_AUTH_CREDENTIALS" in error.message
    return answer is not None and answer.status == 401


def test_behind_the_login_each_worker_has_its_jobs(locked: Stack, browser: Browser) -> None:
    context = browser.new_context(
        http_credentials={"username": LOGIN[0], "password": LOGIN[1]}, viewport={"width": 1200, "height": 520}
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    ids = [submit(locked, max_tokens=40 + n) for n in range(6)]
    cancelled = submit(locked, max_tokens=20_000)
    wait_until(lambda: httpx.get(f"{locked.url}/v1/jobs/{cancelled}").json()["state"] == "running")
    for job_id in ids:
        assert state(locked, job_id) == "succeeded"

    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(
        locked.flower_url
    )  # a browser sends the login with Terminate only where it gave it at the front page
    open_task(page, locked, cancelled, "STARTED")
    shot(page, "flower-task")
    page.get_by_role("button", name="Terminate").click()
    wait_until(lambda: state(locked, cancelled) == "cancelled")
    open_task(page, locked, cancelled, "REVOKED")

    page.goto(f"{locked.flower_url}/workers")
    rows = page.locator("#workers-table tbody tr")
    expect(rows).to_have_count(2)
    expect(page.locator("#workers-table")).to_contain_text("Online")
    heads = page.locator("#workers-table thead th").all_inner_texts()
    (column,) = (n for n, head in enumerate(heads) if head.strip().lower() == "succeeded")
    done = [int(rows.nth(n).locator("td").nth(column).inner_text()) for n in range(2)]
    assert sum(done) == len(ids)
    shot(page, "flower-workers")
    page.goto(f"{locked.flower_url}/tasks")
    expect(page.locator("#tasks-table")).to_contain_text(cancelled)
    for job_id in ids:
        expect(page.locator("#tasks-table")).to_contain_text(job_id)
    expect(page.locator("#tasks-table")).to_contain_text("REVOKED")
    shot(page, "flower-tasks")

    page.goto(f"{locked.flower_url}/workers")
    page.locator("#workers-table tbody a").first.click()
    expect(page.locator("body")).to_contain_text("Pool")
    context.close()


def shot(page: Page, name: str) -> None:
    """Take a picture for the documentation where `tools/screenshots.sh` asks for it."""
    if folder := os.environ.get("PENSTOCK_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")
