"""The documentation: generated pages are fresh, links lead somewhere, and what pages name exists."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import click

from jobs import batches, states
from penstock import Penstock
from penstock.cli.main import cli
from penstock.server.settings import VARIABLES, fields
from tools import gen_docs, vendor

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PACKAGES = "api|benchmarks|broker|clients|coordinator|deploy|docs|jobs|monitoring|penstock|storage|tests|tools|workers"
FILE = re.compile(rf"`((?:{PACKAGES})/[\w./-]*)`")


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text())


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(page.read_text()) if language in languages]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = (re.sub(r"[`*]|\]\([^)]*\)", "", title) for title in HEADING.findall(prose(page)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_generated_pages_are_fresh() -> None:
    assert [str(path) for path in gen_docs.stale()] == [], "run tools/gen_docs.py"


def test_scripts_of_others_are_those_of_the_list() -> None:
    folder = DOCS / "assets" / "vendor"
    assert vendor.check(folder) == []
    named = {one["file"] for one in vendor.listed(folder)} | {vendor.LIST, vendor.LICENCES}
    assert {path.name for path in folder.iterdir()} == named


def test_links_lead_somewhere() -> None:
    for page, link in ((one, link) for one in PAGES for link in LINK.findall(prose(one))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        assert target.is_relative_to(ROOT), f"{page}: {link} leaves the repository"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page}: {link} has no such heading"


def test_every_page_can_be_reached_from_the_index() -> None:
    seen: set[Path] = set()
    frontier = [DOCS / "README.md"]
    while frontier:
        page = frontier.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        links = (link.partition("#")[0] for link in LINK.findall(prose(page)) if ":" not in link)
        frontier += [(page.parent / link).resolve() for link in links if link]
    assert {page for page in PAGES if page.is_relative_to(DOCS)} <= seen


def test_a_decision_says_all_of_it() -> None:
    for page in (DOCS / "adr").glob("0*.md"):
        text = page.read_text()
        assert text.startswith(f"# {page.name[:4]}: "), page
        assert re.search(r"^\d{4}-\d\d-\d\d · (accepted|superseded)", text, re.MULTILINE), page
        places = [text.find(f"\n## {part}\n") for part in ("Context", "Decision", "Rejected", "Consequences")]
        assert -1 not in places, page
        assert places == sorted(places), page


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = sorted(int(page.name[:4]) for page in (DOCS / "adr").glob("0*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_python_examples_parse() -> None:
    for page in PAGES:
        for body in blocks(page, "python"):
            compile(body, str(page), "exec", flags=ast.PyCF_ONLY_AST)


def test_files_that_pages_name_exist() -> None:
    pages = [page for page in PAGES if page.stem != "typescript-sdk"]  # it imports "penstock/webhooks"
    named = [(page, file) for page in pages for file in FILE.findall(page.read_text())]
    assert len(named) > 100
    assert [(str(page), file) for page, file in named if not (ROOT / file).exists()] == []


def test_tests_that_pages_name_exist() -> None:
    named = {one for page in PAGES for one in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text())}
    assert len(named) > 100
    assert [one for one in named if f"def {one[1]}(" not in (ROOT / one[0]).read_text()] == []


def sdk_calls(source: str) -> Iterator[list[str]]:
    """The names of each call on ``client`` in an example of Penstock's SDK: ``client.jobs.get()`` is ``jobs``, ``get``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and (
            names := re.fullmatch(r"client((?:\.\w+)+)", ast.unparse(node))
        ):
            yield names[1].split(".")[1:]


def test_sdk_calls_exist() -> None:
    found = 0
    with Penstock() as client:
        for page in PAGES:
            for body in blocks(page, "python"):
                for names in sdk_calls(body) if "from penstock import" in body else ():
                    target: Any = client
                    for name in names:
                        target = getattr(target, name)  # an AttributeError names the call
                    found += 1
    assert found > 10


def test_the_readme_and_the_quickstart_list_the_same_ways_in() -> None:
    ways = re.findall(r"^\*\*(\d\. .+?)\.\*\*", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert ways == re.findall(r"^## (\d\. .+)$", (DOCS / "use" / "quickstart.md").read_text(), re.MULTILINE)
    assert len(ways) == 6  # both pages, and the index, say six


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(
            r"^(?:\w+=\S+ )*make ([a-z-]+)", "\n".join(blocks(page, "bash")), re.MULTILINE
        ):
            assert target in targets, f"{page}: make {target}"
        for target in re.findall(r"`make ([a-z-]+)", prose(page)):
            assert target in targets, f"{page}: make {target}"


def commands(page: Path) -> list[list[str]]:
    """The words of every ``penstock`` command line, and of what ``make up`` passes on, in a page's examples."""
    found = []
    inline = [span for span in re.findall(r"`([^`\n]+)`", prose(page)) if "--" in span]
    for body in [*blocks(page, "bash", "ini", "sh"), *inline]:
        for line in body.replace("\\\n", " ").splitlines():
            others = line.startswith("helm ") or "curl" in line or "$(" in line
            words = [] if others else shlex.split(line, comments=True)
            if passed := next((word[5:] for word in words if word.startswith("ARGS=")), None):
                if "up" in words:
                    found.append(["up", *passed.split()])
                continue
            at = next((n for n, word in enumerate(words) if re.search(r"(^|[/=])penstock$", word)), None)
            if at is not None and words[at + 1 :]:
                found.append(list(takewhile(lambda word: word not in {"|", ">", "&&"}, words[at + 1 :])))
    return found


def find(line: list[str]) -> tuple[str, click.Command, list[str]]:
    """The command that a line names, a group's own one where it names that, and the rest of the line."""
    name, *words = line
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, f"penstock {name}"
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        inner = command.commands.get(words[0])
        if inner is None and (default := getattr(command, "default", None)):
            return f"{name} {default}", command.commands[default], words
        assert inner is not None, f"penstock {name} {words[0]}"
        return f"{name} {words[0]}", inner, words[1:]
    return name, command, words


def test_commands_and_options_exist() -> None:
    for page, line in ((one, line) for one in PAGES for line in commands(one)):
        while line and line[0].startswith("--") and line[0] != "--help":  # before the command
            assert line[0] in {opt for param in cli.params for opt in param.opts}, f"{page}: {line}"
            line = line[2:]  # noqa: PLW2901  # each takes a value
        if line[0] == "--help":
            continue
        name, command, words = find(line)
        options = {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)} | {
            "--help"
        }
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in options, f"{page}: penstock {name} {word}"


def test_the_command_finder_finds_them() -> None:
    found = commands(ROOT / "README.md") + commands(DOCS / "use" / "quickstart.md")
    assert ["up", "--port", "8181", "--no-flower"] in found  # inline
    assert ["up", "--model", "Qwen/Qwen2.5-0.5B-Instruct"] in found  # in a block, behind make
    assert ["jobs", "list"] in found
    assert ["jobs", "list", "--dead", "--all", "--json"] in commands(
        DOCS / "use" / "retries-and-dead-jobs.md"
    )


def test_settings_exist() -> None:
    known = {f"PENSTOCK_{name.upper()}" for name in fields()} | VARIABLES.keys()
    kubernetes = {"PENSTOCK_SERVICE_HOST"}
    for page in PAGES:
        named = set(re.findall(r"PENSTOCK_[A-Z][A-Z0-9_]*[A-Z]", page.read_text()))
        assert named <= known | kubernetes, page


def test_the_diagrams_are_the_tables() -> None:
    page = (DOCS / "architecture.md").read_text()
    assert states.mermaid() in page
    assert batches.mermaid() in page


FIRST_PAGES = (ROOT / "README.md", DOCS / "use" / "quickstart.md", DOCS / "tutorial.md")


def test_no_example_kills_processes_of_others() -> None:
    for page in PAGES:
        assert not re.search(r"\b(pgrep|pkill|killall)\b", "\n".join(blocks(page, "bash", "sh"))), page


def test_the_first_pages_write_files_of_their_own() -> None:
    """Whoever reads one after the other in the same folder is not stopped by a file that exists."""
    written = [
        file
        for page in FIRST_PAGES
        for line in commands(page)
        if "batch" in line[:4] and "--resume" not in line
        for option, file in pairwise(line)
        if option == "-o"
    ]
    assert len(written) >= 4
    assert len(set(written)) == len(written), written


def test_git_ignores_what_the_tutorial_makes() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"*.key", "penstock.toml", ".penstock/"} <= set(ignored)
