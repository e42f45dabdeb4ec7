"""The TypeScript SDK as it is published: packed, installed in an empty project, and run there by every runtime."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from penstock import Penstock, __version__
from tests.browser import browser
from tests.clients.node import passes
from tests.compliance.environments import node_package
from tests.e2e.stacks import Stack, start_stack, stop_stack
from tests.loopback import LoopbackServer
from tests.processes import ROOT
from tools.setup_node import SDK, node_env

__all__ = ["browser"]  # a fixture

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]  # packages are installed

SMOKE = SDK / "test" / "smoke.mjs"
RUNTIMES = {"bun": ("bun@1.3.4", "bin/bun.exe"), "deno": ("deno@2.5.6", "bin.cjs")}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`penstock up`, which pages of any origin may call."""
    stack = start_stack(
        tmp_path_factory.mktemp("up"),
        "--engine=simulated",
        "--no-flower",
        PENSTOCK_ALLOWED_ORIGINS="*",
        PENSTOCK_SIMULATED_INTER_TOKEN_S="0.01",
    )
    yield stack
    stop_stack(stack)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty project with the package installed, as the README says."""
    folder = tmp_path_factory.mktemp("my-project")
    passes("npm", "pack", f"--pack-destination={folder}")
    (packed,) = folder.glob("*.tgz")
    with tarfile.open(packed) as archive:
        assert {"README.md", "LICENSE", "package.json"} < {Path(name).name for name in archive.getnames()}
    passes("npm", "init", "-y", folder=folder)
    passes("npm", "install", f"./{packed.name}", folder=folder)
    (folder / "smoke.mjs").write_text(SMOKE.read_text())
    return folder


def examples(page: Path) -> list[str]:
    """Return a page's examples in JavaScript."""
    return re.findall(r"```(?:js|javascript)\n(.*?)```", page.read_text(), re.DOTALL)


def test_it_has_the_version_of_the_python_package() -> None:
    assert json.loads((SDK / "package.json").read_text())["version"] == __version__


def test_publint_attw_and_size_limit_have_no_complaint(project: Path) -> None:
    (tarball,) = project.glob("*.tgz")
    passes("npx", "--no-install", "publint", "--strict", str(tarball))
    passes("npx", "--no-install", "attw", "--profile=node16", str(tarball))
    sizes = json.loads(passes("npx", "--no-install", "size-limit", "--json"))
    assert all(one["passed"] for one in sizes), sizes


def test_the_reference_can_be_written(tmp_path: Path) -> None:
    passes("npx", "--no-install", "typedoc", "--out", str(tmp_path))
    assert (tmp_path / "classes" / "index.Penstock.html").exists()


def test_it_depends_on_nothing(project: Path) -> None:
    assert sorted(path.name for path in (project / "node_modules").iterdir() if path.name[0] != ".") == [
        "penstock"
    ]


@pytest.mark.parametrize("how", ["import", "require"])
def test_node(stack: Stack, project: Path, how: str) -> None:
    assert "smoke: passed" in passes("node", "smoke.mjs", stack.url, how, folder=project)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_another_runtime(stack: Stack, project: Path, runtime: str) -> None:
    node, program = node_package(*RUNTIMES[runtime])
    command = (
        [program]
        if runtime == "bun"
        else [node, program, "run", "--allow-net", "--allow-env", "--allow-read"]
    )
    said = passes(*command, "smoke.mjs", stack.url, "import", folder=project)
    assert "smoke: passed" in said


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>smoke</title>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_chromium(stack: Stack, project: Path, browser: Browser) -> None:
    (project / "page.js").write_text(
        'import * as penstock from "penstock";\nimport * as webhooks from "penstock/webhooks";\n'
        'globalThis.smokeModules = { penstock, "penstock/webhooks": webhooks };\n'
        f'globalThis.smokeArguments = ["{stack.url}"];\n'
    )
    esbuild = str(SDK / "node_modules" / ".bin" / "esbuild")
    bundle = passes(esbuild, "page.js", "--bundle", "--format=iife", folder=project)
    with LoopbackServer(_Page, "page") as server:
        page = browser.new_page()
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(server.url)
        page.add_script_tag(content=bundle)
        page.add_script_tag(content=SMOKE.read_text(), type="module")
        page.wait_for_function("globalThis.smokePassed", timeout=30_000) if not said else None
        page.close()
    assert not said


def test_the_readme_leads_to_a_resumed_stream(stack: Stack, project: Path) -> None:
    """Its first two programs; the second is killed in the middle, and continues when it is started again."""
    story, resume = examples(SDK / "README.md")[:2]
    (project / "story.mjs").write_text(story)
    (project / "resume.mjs").write_text(resume)
    env = {**node_env(), "PENSTOCK_URL": stack.url}
    told = subprocess.run(
        ["node", "story.mjs"], cwd=project, env=env, capture_output=True, text=True, check=True
    )
    with Penstock(stack.url) as client:
        job = client.wait(told.stderr.removeprefix("job ").strip())
        assert told.stdout == job.text
        again = client.jobs.retry(job.id)
        first = subprocess.Popen(
            ["node", "resume.mjs", again.id], cwd=project, env=env, stdout=subprocess.PIPE
        )
        assert first.stdout is not None
        begun = first.stdout.read(20)
        first.kill()
        begun += first.communicate()[0]
        place = json.loads((project / f"{again.id}.json").read_text())
        whole = passes("node", "resume.mjs", again.id, folder=project, PENSTOCK_URL=stack.url)
        assert whole == client.wait(again.id).text
        assert begun.startswith(place["text"].encode())
        assert place["text"] != whole


def test_the_examples_fit_the_types(project: Path) -> None:
    (project / "examples").mkdir()
    pages = [SDK / "README.md", *(ROOT / "docs" / "use" / name for name in ("typescript.md", "webhooks.md"))]
    for place, example in enumerate(example for page in pages for example in examples(page)):
        (project / "examples" / f"example{place}.mjs").write_text(example)
    options = ["--allowJs", "--checkJs", "--noEmit", "--module", "nodenext", "--target", "es2022"]
    libraries = ["--lib", "es2023,dom,dom.asynciterable", "--typeRoots", str(SDK / "node_modules" / "@types")]
    files = sorted(map(str, (project / "examples").iterdir()))
    tsc = str(SDK / "node_modules" / ".bin" / "tsc")
    passes(tsc, *options, *libraries, "--types", "node", *files, folder=project)
