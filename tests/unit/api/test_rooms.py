"""The rooms of the api: which may import which, and that no modules import each other in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

API = Path(__file__).parents[3] / "api"
SHARED = {
    "http": set(),
    "access": {"http"},
    "middleware": {"http", "access"},
    "admission": {"http", "access", "middleware"},
}
"""The rooms that others may import, and what they import themselves."""

ROOMS = SHARED | {
    room: set(SHARED) for room in ("openai", "jobs", "files", "batches", "operations", "console", "bulk")
}
FILES = sorted(API.rglob("*.py"))


def module_of(path: Path) -> str:
    name = path.relative_to(API.parent).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("api"):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(API).as_posix())
def test_rooms_import_only_shared_rooms(path: Path) -> None:
    room = path.relative_to(API).parts[0]
    if room not in ROOMS:
        return  # app, background, services ... put the rooms together
    known = {module_of(one) for one in FILES}
    for module in imports(path):
        other = module.split(".")[1]
        if module in known and other in ROOMS:
            assert other == room or other in ROOMS[room], f"{room} imports {module}"
    if room == "http":
        assert all(module.split(".")[1] == "http" for module in imports(path))


def test_there_is_no_circle() -> None:
    known = {module_of(path) for path in FILES}
    graph = {
        module_of(path): {one for one in imports(path) if one in known and one != module_of(path)}
        for path in FILES
    }
    assert list(TopologicalSorter(graph).static_order())
