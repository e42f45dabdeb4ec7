"""Who may import whom: packages, the rooms within a package, single modules; and where each library is confined.

An import counts wherever it is: at the top of a module, in a function, or named in a string (``"package.module:name"``, as
Celery, uvicorn and ``python -m`` take it).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

BELOW = {
    "jobs": set(),
    "monitoring": {"jobs"},
    "storage": {"jobs"},
    "broker": {"jobs", "monitoring"},
    "coordinator": {"broker", "storage", "jobs", "monitoring"},
    "workers": {"broker", "storage", "jobs", "monitoring"},
    "api": {"broker", "storage", "jobs", "monitoring"},
    "penstock": set(),
}
"""The packages that each package may import."""

STARTERS = ("penstock/server/", "penstock/cli/server.py", "penstock/cli/worker_run.py")
"""They start the processes, so they may import every package. A client-only install lacks them."""

TOP = ""
"""Stands for the modules that lie in the package itself: its settings, its main, what its rooms share."""

FACE = {TOP, "http", "access", "middleware", "admission"}
ROOMS = {
    "api": {
        "http": set(),
        "connections": {"http"},
        "access": {"http"},
        "middleware": {"http", "access"},
        "admission": {TOP, "http"},
        "openai": FACE,
        "responses": FACE | {"openai"},
        "conversations": FACE | {"responses"},
        "jobs": FACE | {"openai", "responses"},
        "files": FACE,
        "batches": FACE,
        "operations": FACE,
        "webhooks": FACE,
        "admin": FACE,
        "console": FACE,
        TOP: FACE
        | {"connections", "openai", "responses", "conversations", "webhooks"}
        | {"jobs", "files", "batches", "operations", "admin", "console"},
    },
    "broker": {
        "db": set(),
        "celery": {TOP, "db"},
        "events": {TOP, "db"},
        TOP: {"db"},
    },
    "workers": {
        "devices": {TOP},
        "engines": {TOP, "devices"},
        "adapters": {TOP, "engines"},
        "admission": {"engines"},
        "attempts": {TOP, "admission", "engines"},
        "batches": {TOP, "admission", "engines"},
        "nodes": {TOP, "devices", "engines"},
        "swapping": {TOP, "admission", "attempts", "engines"},
        "process": {TOP, "adapters", "admission", "attempts", "batches", "engines", "nodes", "swapping"},
        "celery": {TOP, "admission", "attempts"},
        TOP: {"admission", "celery", "devices", "engines", "process"},
    },
}
"""The rooms of a package, and for each the other rooms that it may import."""

CONFINED = {
    "aiohttp": ("coordinator/webhooks/", "workers/engines/openai/", "workers/engines/vllm/media.py"),
    "redis": ("broker/", "penstock/server/valkey.py"),
    "hiredis": ("broker/",),
    "kombu": ("broker/celery/",),
    "celery": ("broker/celery/", "workers/"),
    "fastapi": ("api/",),
    "starlette": ("api/", "workers/engines/vllm/inner_app.py"),  # there, the request type of vLLM's own app
    "obstore": ("storage/",),
    "huggingface_hub": ("storage/adapter_hub.py", "workers/engines/vllm/hub.py"),
    "cryptography": ("jobs/sealing.py",),
    "jinja2": ("api/console/render.py",),
    "markupsafe": ("api/console/render.py",),
    "vllm": tuple(
        f"workers/engines/vllm/{name}.py"
        for name in (
            *(
                "aborts",
                "adapters",
                "boot",
                "core_hooks",
                "headless",
                "cpu_memory",
                "detokenizing",
                "held_outputs",
                "lane_scheduler",
                "lanes",
            ),
            *(
                "media",
                "paced",
                "paced_tokens",
                "priority_probe",
                "parsers",
                "quick_slots",
                "reasoning",
                "rendering",
                "tap",
                "timed_scheduler",
                "worker_hooks",
            ),
        )
    ),
    "torch": (
        *(
            "workers/devices/tiny_models.py",
            "workers/devices/tiny_weights.py",
            "workers/devices/tiny_encoder.py",
            "workers/devices/tiny_speech.py",
            "workers/devices/tiny_vision.py",
        ),
        "workers/engines/vllm/paced_tokens.py",  # what vLLM takes and gives as tensors
    ),
    "opentelemetry": ("monitoring/otlp.py",),
    "standardwebhooks": ("coordinator/webhooks/", "penstock/"),
    "structlog": ("api/", "broker/", "coordinator/", "monitoring/", "workers/"),
}
"""Where a library may be imported."""

IMPURE = {
    *("asyncio", "time", "socket", "threading", "subprocess", "random", "datetime", "os", "pathlib"),
}
"""The core does no I/O, reads no clock and rolls no dice."""

_NAMED = re.compile(rf"({'|'.join(BELOW)})((?:\.\w+)+)(?::[\w.]+)?\Z")


class Import(NamedTuple):
    """One import: in which file and line, and the module that it names."""

    path: str
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


@cache
def files() -> tuple[str, ...]:
    return tuple(sorted(p.relative_to(ROOT).as_posix() for pkg in BELOW for p in (ROOT / pkg).rglob("*.py")))


@cache
def modules() -> frozenset[str]:
    """Return every module and package of ours, by its dotted name."""
    return frozenset(module_of(path) for path in files())


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def existing(name: str) -> str | None:
    """Return the module of ours that a dotted name is, or is an attribute of."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name or None


def named_in(node: ast.AST) -> Iterator[str]:
    """Yield the modules that a node of a syntax tree names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield whole if whole in modules() else node.module
    elif (
        isinstance(node, ast.Constant) and isinstance(node.value, str) and (found := _NAMED.match(node.value))
    ):
        module = existing(found[1] + found[2])
        if module is not None and module != found[1]:
            yield module


@cache
def imports() -> tuple[Import, ...]:
    found = []
    for path in files():
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            found += [Import(path, getattr(node, "lineno", 0), module) for module in named_in(node)]
    return tuple(dict.fromkeys(found))


def ours() -> Iterator[tuple[Import, str, str]]:
    """Yield the imports of our own modules, with the package of each side."""
    for one in imports():
        package = one.module.split(".")[0]
        if package in BELOW:
            yield one, one.path.split("/")[0], package


def room(module: str) -> str:
    """Return the room of a module, a folder of its package; :data:`TOP` for a module that lies in the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (ROOT / parts[0] / parts[1]).is_dir() else TOP


def listed(offenders: Iterable[object]) -> str:
    return "\n".join(["", *map(str, offenders)])


def test_every_package_is_there_and_none_is_left_out() -> None:
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert packages - {"tests", "benchmarks", "tools"} == set(BELOW)


def test_a_package_imports_only_those_below_it() -> None:
    offenders = [
        one
        for one, source, target in ours()
        if source != target and target not in BELOW[source] and not one.path.startswith(STARTERS)
    ]
    assert not offenders, listed(offenders)


def test_every_room_is_in_the_table() -> None:
    found = {(module.split(".")[0], room(module)) for module in modules() if module.split(".")[0] in ROOMS}
    assert found == {(package, name) for package, rooms in ROOMS.items() for name in rooms}


def test_a_room_imports_only_the_rooms_that_are_shared_with_it() -> None:
    offenders = []
    for one, source, target in ours():
        if source == target and source in ROOMS:
            here, there = room(module_of(one.path)), room(one.module)
            if here != there and one.module != source and there not in ROOMS[source].get(here, set()):
                offenders.append(one)
    assert not offenders, listed(offenders)


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges: dict[str, set[str]] = {module: set() for module in modules()}
    for one, _, _ in ours():
        edges[module_of(one.path)].add(one.module)
    while leaves := {module for module, targets in edges.items() if not targets & edges.keys() - {module}}:
        edges = {module: targets for module, targets in edges.items() if module not in leaves}
    # What is left is in a circle or imports one. Take away what nothing left imports, and only the circles stay.
    while edges and (roots := edges.keys() - set().union(*(edges[m] - {m} for m in edges))):
        edges = {module: targets for module, targets in edges.items() if module not in roots}
    circles = [f"{module} <-> {', '.join(sorted(t & edges.keys()))}" for module, t in sorted(edges.items())]
    assert not circles, listed([*circles])


def test_libraries_are_confined() -> None:
    offenders = [
        one
        for one in imports()
        if (homes := CONFINED.get(one.module.split(".")[0])) and not one.path.startswith(homes)
    ]
    assert not offenders, listed(offenders)


def test_the_core_is_pure() -> None:
    offenders = [
        one for one in imports() if one.path.startswith("jobs/") and one.module.split(".")[0] in IMPURE
    ]
    assert not offenders, listed(offenders)


def test_no_redis_key_is_spelled_outside_keys_py() -> None:
    python = [p for p in files() if not p.endswith("/keys.py") and _spells_a_key(ROOT / p)]
    lua = [p for p in (ROOT / "broker" / "lua").rglob("*.lua") if "penstock" in p.read_text()]
    assert not python + lua, listed([*python, *lua])


def _spells_a_key(path: Path) -> bool:
    # Alone it is the beginning of a sentence, or the prefix of scopes in tokens.
    return re.search(r"penstock:(?![ `\"])", path.read_text()) is not None


def test_the_operator_is_a_client() -> None:
    """Its image has the SDK and nothing else of ours."""
    for path in (ROOT / "deploy" / "operator").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            for name in named_in(node):
                ours = existing(name)
                assert ours is None or re.match(r"penstock(?!\.(server|cli|bulk))", ours), (
                    f"{path.name}: {name}"
                )
