"""The console's playground and batches in a real browser, on the whole stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.console.conftest import check_accessible
from tests.e2e.stacks import Stack

pytestmark = pytest.mark.xdist_group("stack")

HOSTILE = "<img src=x onerror=document.title='broken'> \"quoted\" 'single' \\ $HOME"


def rows(count: int, bad: int = 0) -> str:
    """An input file; the first rows fail."""

    def line(number: int) -> dict[str, Any]:
        said = [{"role": "user", "content": f"Row {number}"}]
        body = {"model": "simulated", "messages": said, "max_tokens": -1 if number < bad else 4}
        place = {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions"}
        return place | {"body": body}

    return "".join(json.dumps(line(number)) + "\n" for number in range(count))


def say(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")


def test_a_call_that_waits_shows_its_place(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.url}/console/playground")
    status = page.locator("#status")
    httpx.post(f"{stack.url}/v1/queues/default/pause").raise_for_status()
    try:
        page.get_by_label("Most tokens").fill("5")
        say(page, "hi")
        expect(status).to_have_text("Waiting for the answer: it is the next")
    finally:
        httpx.post(f"{stack.url}/v1/queues/default/resume").raise_for_status()
    expect(status).to_have_text("The answer is complete.")
    expect(page.locator(".turn-assistant")).to_contain_text("5 tokens")


def test_a_conversation_is_streamed_stopped_and_shown_as_code(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.url}/console/playground")
    page.get_by_label("Most tokens").fill("5")
    page.get_by_label("Message").fill(HOSTILE)
    code = page.locator("#code")
    expect(code).to_contain_text('"max_tokens": 5')
    expect(code).to_contain_text("'\\''single'\\''")  # as a shell reads it
    page.get_by_label("Message").press("Enter")
    status = page.locator("#status")
    expect(status).to_have_text("The answer is complete.")
    expect(page.locator(".turn-user > .turn-text")).to_have_text(HOSTILE)
    answer = page.locator(".turn-assistant").first
    expect(answer).to_contain_text("5 tokens")
    expect(answer).to_contain_text("first token after")
    first = answer.locator("> .turn-text").inner_text()
    assert first.strip()
    expect(page.get_by_label("Message")).to_be_focused()
    expect(code).to_contain_text("'\\''single'\\''")  # the call that was made, without its answer
    expect(code).not_to_contain_text('"assistant"')
    expect(code).not_to_contain_text("Hello!")

    page.get_by_label("Most tokens").fill("20000")
    say(page, "And then?")
    expect(page.locator(".turn-assistant")).to_have_count(2)
    expect(page.locator(".turn-assistant").last.locator("> .turn-text")).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    expect(status).to_have_text("Stopped.")
    assert first.strip() in code.inner_text()  # the next call has the turns before it
    assert code.inner_text().count('"role"') == 3
    expect(code).to_contain_text("And then?")
    for name, word in (
        ("Python, openai", "client.chat.completions.create("),
        ("Python, penstock", "client.submit(body, stream=True)"),
        ("TypeScript", "process.stdout.write"),
    ):
        page.get_by_label(name).check()
        expect(code).to_contain_text(word)
    check_accessible(page)

    say(page, "Go on")
    expect(page.locator(".turn-assistant").last.locator("> .turn-text")).not_to_be_empty()
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".turn")).to_have_count(0)
    page.get_by_label("Most tokens").fill("5")
    say(page, "Another subject")
    expect(status).to_have_text("The answer is complete.")
    expect(page.locator(".turn")).to_have_count(2)
    expect(code).to_contain_text("Another subject")
    assert "Go on" not in code.inner_text()  # nothing of the conversation before

    page.get_by_label("Completion").check()
    page.get_by_label("Most tokens").fill("3")
    page.get_by_label("Prompt", exact=True).fill("Once")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn-assistant").last).to_contain_text("3 tokens")
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".turn")).to_have_count(0)
    assert "broken" not in page.title()


def test_a_refusal_is_shown_and_the_words_are_kept(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.url}/console/playground")
    page.get_by_label("Temperature").fill("1.5")
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Most tokens").evaluate("element => element.removeAttribute('min')")
    page.get_by_label("Most tokens").fill("-4")
    say(page, "Will you?")
    expect(page.locator(".turn-error")).to_contain_text("max_tokens")
    expect(page.get_by_label("Message")).to_have_value("Will you?")


def test_a_batch_from_its_file_to_the_retry_of_its_failed_rows(
    page: Page, stack: Stack, tmp_path: Path
) -> None:
    file = tmp_path / "reviews.jsonl"
    file.write_text(rows(6, bad=2))
    page.goto(f"{stack.url}/console/batches")
    page.get_by_label("Input file").set_input_files(file)
    expect(page.locator("#file-name")).to_contain_text("reviews.jsonl")
    page.get_by_role("button", name="Upload and create").click()
    page.wait_for_url("**/console/batches/batch_*")
    expect(page.get_by_role("heading", name="reviews.jsonl")).to_be_visible()
    expect(page.locator("#live_batch .state")).to_have_text("completed")  # without a reload
    expect(page.locator("#live_batch")).to_contain_text("row-1")
    with page.expect_download() as loading:
        page.get_by_role("link", name="Results").click()
    lines = Path(loading.value.path()).read_text().splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in lines) == ["row-2", "row-3", "row-4", "row-5"]
    assert loading.value.suggested_filename.endswith("-results.jsonl")
    page.get_by_role("button", name="Verify").click()
    expect(page.locator("#verdict")).to_have_text(
        "Every row has exactly one line. 6 rows: 4 answered, 2 failed."
    )
    check_accessible(page)
    first = page.url
    page.get_by_role("button", name="Retry failed rows").click()
    page.wait_for_url(lambda url: "batch_" in url and url != first)
    expect(page.locator("#live_batch .state")).to_have_text("completed")
    page.get_by_role("link", name=first.rpartition("/")[2]).click()
    page.wait_for_url(first)
    expect(page.get_by_text("Retried as")).to_be_visible()


@pytest.mark.full
def test_a_dropped_file_becomes_a_batch_that_is_paused_resumed_and_cancelled(
    page: Page, stack: Stack
) -> None:
    page.goto(f"{stack.url}/console/batches")
    text = rows(2000).replace('"max_tokens": 4', '"max_tokens": 2000')
    dropped = page.evaluate_handle(
        "text => { const all = new DataTransfer(); all.items.add(new File([text], 'dropped.jsonl')); return all; }",
        text,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    expect(page.locator("#file-name")).to_contain_text("dropped.jsonl")
    page.get_by_label("Priority").select_option("low")
    page.get_by_role("button", name="Upload and create").click()
    page.wait_for_url("**/console/batches/batch_*")
    state = page.locator("#live_batch .state")
    expect(state).to_have_text("in progress")
    page.get_by_role("button", name="Pause").click()
    expect(state).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(state).to_have_text("in progress")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Keep as it is").click()
    expect(state).to_have_text("in progress")
    page.get_by_role("button", name="Cancel").click()
    page.locator("#ask-yes").click()
    expect(state).to_have_text("cancelled")


def test_an_upload_that_is_refused_says_why(page: Page, stack: Stack, tmp_path: Path) -> None:
    page.goto(f"{stack.url}/console/batches")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    page.route(
        "**/v1/batches",
        lambda route: route.fulfill(status=429, body='{"error":{"message":"too many batches"}}'),
    )
    page.get_by_label("Input file").set_input_files(empty)
    page.get_by_role("button", name="Upload and create").click()
    expect(page.locator("#upload-status")).to_have_text("No batch was created: too many batches")
    expect(page.get_by_role("button", name="Upload and create")).to_be_enabled()
