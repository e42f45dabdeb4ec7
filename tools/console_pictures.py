#!/usr/bin/env python3
"""Takes the console's pictures for docs/images: each page on a wide screen in light and dark, and on a narrow one in both.

    .venv/bin/python tools/console_pictures.py [FOLDER]

It runs `penstock up` with the simulated engine, and fills it as `benchmarks/console.py` does. Needs Chromium.
"""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from _console_seed import Counts, House  # noqa: E402 - from the folder of the benchmarks
from _stack import penstock_up  # noqa: E402

from penstock.server.valkey import EmbeddedServer  # noqa: E402

WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 800}
TALLEST = {"width": 1400, "height": 1500}
COLOURS, GAP = 256, 16
CHAT = "/v1/chat/completions"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
CHARTS_S = 45.0
"""The charts of the queues begin after some samples, one every ten seconds."""

TENANTS = {
    "search": {"weight": 3, "tokens_per_day": 2_000_000, "storage_bytes": 5_000_000_000, "batches_open": 4},
    "support": {"tokens_per_minute": 60_000, "requests_per_minute": 600, "models": ["org/model-1"]},
    "research": {"state": "suspended", "lanes": ["bulk"]},
}


@dataclass(frozen=True, slots=True)
class Site:
    """A furnished server: its address, its administrator's key, and the pages to show, by name."""

    url: str
    key: str
    pages: dict[str, str]


def rows(count: int, bad: int, tokens: int) -> str:
    """Return an input file whose first rows fail."""
    lines = []
    for number in range(count):
        said = [{"role": "user", "content": f"Summarise review {number}."}]
        body = {"model": "simulated", "messages": said, "max_tokens": -1 if number < bad else tokens}
        line = {"custom_id": f"review-{number:04}", "method": "POST", "url": CHAT, "body": body}
        lines.append(json.dumps(line) + "\n")
    return "".join(lines)


async def furnish(redis: str, url: str, key: str) -> Site:
    """Fill the server. Its workers outlive this call by an hour, without heartbeats."""
    house = House(redis, 8)
    await house.open(Counts.of(600))
    async with httpx.AsyncClient(
        base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60
    ) as http:
        for name, limits in TENANTS.items():
            (await http.put(f"/v1/admin/tenants/{name}", json=limits)).raise_for_status()
            made = {"tenant": name, "name": f"{name} service"}
            (await http.post("/v1/admin/keys", json=made)).raise_for_status()
        batches = {}
        for name, sizes in {
            "reviews": (400, 0, 8),
            "tickets": (60, 7, 8),
            "catalogue": (6000, 0, 900),
        }.items():
            form = {"file": (f"{name}.jsonl", rows(*sizes))}
            file = (
                (await http.post("/v1/files", data={"purpose": "batch"}, files=form))
                .raise_for_status()
                .json()
            )
            asked = {
                "input_file_id": file["id"],
                "endpoint": CHAT,
                "completion_window": "24h",
                "metadata": {"filename": f"{name}.jsonl"},
            }
            batches[name] = (await http.post("/v1/batches", json=asked)).raise_for_status().json()["id"]
        await asyncio.sleep(CHARTS_S)
        (await http.post("/v1/queues/pool-2/pause")).raise_for_status()
        failed = (await http.get("/v1/dead", params={"limit": 1})).json()["data"][0]["id"]
    await house.aclose()
    return Site(
        url,
        key,
        {
            "queues": "",
            "jobs": "/jobs",
            "job": f"/jobs/{failed}",
            "dead": "/dead",
            "workers": "/workers",
            "batches": "/batches",
            "batch": f"/batches/{batches['tickets']}",
            "playground": "/playground",
            "usage": "/usage",
            "keys": "/keys",
            "tenants": "/tenants",
            "audit": "/audit",
        },
    )


def views(
    browser: Browser, site: Site, screen: dict[str, int], scheme: str
) -> Iterator[tuple[str, Image.Image]]:
    """Yield each page's picture, the login's first."""
    context = browser.new_context(viewport=screen, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.goto(f"{site.url}/console/login")
    yield "login", picture(page, screen)
    page.get_by_label("API key or token").fill(site.key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/console")
    for name, path in site.pages.items():
        page.goto(f"{site.url}/console{path}")
        if name == "playground":
            converse(page)
        if page.locator("#pulse").count():
            page.locator("#pulse[data-state=on]").wait_for()
        page.wait_for_timeout(1500)  # the charts draw themselves, and live parts come
        yield name, picture(page, screen)
    context.close()


def converse(page: Page) -> None:
    """Say something in the playground."""
    page.get_by_label("Model").select_option("simulated")
    page.get_by_label("Most tokens").fill("40")
    for text in ("What does a penstock do?", "And in one sentence?"):
        page.get_by_label("Message").fill(text)
        page.get_by_label("Message").press("Enter")
        page.get_by_text("The answer is complete.").wait_for()
        page.locator("#status").evaluate("element => element.textContent = ''")


def picture(page: Page, screen: dict[str, int]) -> Image.Image:
    """Return what is seen, down to a bound."""
    whole = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    most = TALLEST["width" if screen is WIDE else "height"]
    return whole.crop((0, 0, whole.width, min(whole.height, most)))


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Return two pictures beside each other."""
    both = Image.new("RGB", (left.width + GAP + right.width, max(left.height, right.height)), "#808890")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + GAP, 0))
    return both


def save(image: Image.Image, path: Path) -> None:
    """Write a small PNG."""
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Furnish a server, and take the pictures."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs" / "images")
    chromium = shutil.which("chromium") or "google-chrome"
    given = {"PENSTOCK_QUEUE_MAX": "100000", "PENSTOCK_SIMULATED_INTER_TOKEN_S": "0.02"}
    with (
        tempfile.TemporaryDirectory(prefix="ps") as data,
        penstock_up("--engine=simulated", "--require-keys", data_dir=Path(data), **given) as base,
    ):
        key = (Path(data) / "admin.key").read_text().strip()
        site = asyncio.run(furnish(EmbeddedServer(Path(data)).url, f"http://{base[0]}:{base[1]}", key))
        take(site, chromium, folder)


def take(site: Site, chromium: str, folder: Path) -> None:
    """Take the pictures."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for name, light in views(browser, site, WIDE, "light"):
            save(light, folder / f"console-{name}.png")
        for name, dark in views(browser, site, WIDE, "dark"):
            save(dark, folder / f"console-{name}-dark.png")
        narrow = dict(views(browser, site, NARROW, "light"))
        for name, dark in views(browser, site, NARROW, "dark"):
            save(beside(narrow[name], dark), folder / f"console-{name}-narrow.png")
        browser.close()


if __name__ == "__main__":
    main()
