"""The documentation as a site: it builds without a warning, its links lead somewhere, its search finds what people ask."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Page

pytestmark = pytest.mark.xdist_group("docs-site")  # it is built once

ROOT = Path(__file__).parents[2]

QUESTIONS = {
    "How do I cancel a job?": "use/cancel-and-deadlines",
    "resume a stream": "use/stream-and-resume",
    "Which OpenAI client settings do I need?": "use/openai-compatibility",
    "use the Anthropic SDK": "use/anthropic-messages",
    "run a batch of prompts from a file": "bulk/batches",
    "retry failed jobs": "use/retries-and-dead-jobs",
    "verify a webhook signature": "use/webhooks",
    "small laptop with little memory": "use/edge",
    "require API keys": "operate/keys",
    "limit the tokens per day of a team": "operate/tenants",
    "What did each team use?": "operate/usage",
    "serve a model on two GPUs": "operate/several-models",
    "add a LoRA adapter": "operate/adapters",
    "upgrade the model without downtime": "operate/new-versions",
    "use my own Redis": "operate/redis-and-machines",
    "install on Kubernetes with Helm": "operate/kubernetes",
    "scale to zero": "operate/autoscaling",
    "docker compose": "operate/containers",
    "TLS certificate": "operate/encryption",
    "back up and restore": "operate/operations",
    "What does queue_full mean?": "operate/queue",
    "lease_ttl_s": "reference/configuration",
    "Prometheus metrics": "reference/metrics",
    "CUDA out of memory": "operate/troubleshooting",
    "worker does not start": "operate/troubleshooting",
}
"""What people ask, and the page that must be among the first three that are found."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return site


class Parsed(HTMLParser):
    """What a page of the site asks for, links to, and can be linked to at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in {"canonical", "prev", "next"}:
            self.loads.append(given["href"])
        elif "src" in given:
            self.loads.append(given["src"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Parsed]:
    return {path: Parsed(path.read_text()) for path in site.rglob("*.html")}


def test_every_page_is_built_and_loads_nothing_from_elsewhere(site: Path, pages: dict[Path, Parsed]) -> None:
    sources = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site).with_suffix("") for path in pages}
    assert {path.with_name("index") if path.name == "README" else path for path in sources} <= built
    assert [one for page in pages.values() for one in page.loads if urlsplit(one).netloc] == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]*", styles) == []


def test_links_lead_somewhere(site: Path, pages: dict[Path, Parsed]) -> None:
    checked = 0
    for path, page in pages.items():
        if path.name == "404.html":  # its links begin at the server's root
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or parts.path == "typescript/index.html":  # of `make docs`
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path}: {link}"
            checked += 1
    assert checked > 5_000


def found(page: Page, question: str) -> Iterator[str]:
    """The pages that a search finds, the best first."""
    box = page.get_by_role("textbox", name="Search")
    box.fill("")
    page.locator(".md-search-result__meta", has_text="Type to start searching").wait_for()
    box.fill(question[:-1])
    box.press(question[-1])  # the search listens to keys
    page.locator(".md-search-result__meta", has_text=re.compile("matching document")).wait_for()
    seen = -1
    while seen != (seen := page.locator(".md-search-result__item").count()):
        page.wait_for_timeout(50)
    for link in page.locator(".md-search-result__item > .md-search-result__link").all():
        yield urlsplit(link.get_attribute("href") or "").path.partition("/site/")[2].removesuffix(".html")


def test_the_search_finds_what_people_ask_without_a_server(site: Path, page: Page) -> None:
    page.goto((site / "index.html").as_uri())
    page.get_by_role("textbox", name="Search").click()
    missed = {}
    for question, wanted in QUESTIONS.items():
        best = list(dict.fromkeys(found(page, question)))[:3]
        if wanted not in best:
            missed[question] = best
    assert missed == {}


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.full)])
def test_diagrams_are_drawn(site: Path, page: Page, scheme: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto((site / "architecture.html").as_uri())
    page.locator("figure.diagram svg").nth(2).wait_for()
    assert page.locator("pre.diagram").count() == 0
    assert page.locator("figure.diagram .error-icon").count() == 0
