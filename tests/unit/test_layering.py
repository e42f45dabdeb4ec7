"""Who may import whom (DESIGN section 2), and where each library is confined."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"api", "broker", "coordinator", "jobs", "monitoring", "penstock", "storage", "workers"}
MAY_IMPORT = {
    "jobs": set(),
    "monitoring": set(),
    "storage": {"jobs"},
    "broker": {"jobs", "monitoring"},
    "coordinator": {"broker", "jobs", "monitoring", "storage"},
    "workers": {"broker", "jobs", "monitoring", "storage"},
    "api": {"broker", "jobs", "monitoring", "penstock", "storage"},
    "penstock": set(),
}
# `penstock up` and the commands of the single processes start the application; a client-only install lacks them.
STARTERS = ("penstock/server/", "penstock/cli/server.py")
CONFINED = {
    "redis": ("broker/", "penstock/server/valkey.py"),
    "kombu": ("broker/celery/",),
    "celery": ("broker/celery/", "workers/"),
    "fastapi": ("api/",),
    "starlette": ("api/", "workers/engines/vllm/inner_app.py"),  # there, the request type of vLLM's own app
    "obstore": ("storage/",),
    "vllm": ("workers/engines/vllm/engine.py",),
    "torch": ("workers/engines/vllm/engine.py", "workers/devices/tiny_models.py"),
    "opentelemetry": ("monitoring/tracing.py",),
    "structlog": ("api/", "broker/", "coordinator/", "monitoring/", "workers/"),
}
NOT_IN_THE_CORE = {
    "asyncio",
    "time",
    "socket",
    "threading",
    "subprocess",
    "random",
    "datetime",
    "os",
    "pathlib",
}

FILES = sorted(p for room in OURS for p in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 60
    assert {p.relative_to(ROOT).parts[0] for p in FILES} == OURS


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_keep_to_their_rooms(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    room = name.split("/")[0]
    allowed = OURS if name.startswith(STARTERS) else MAY_IMPORT[room] | {room}
    for module in imports(path):
        top = module.split(".")[0]
        assert top not in OURS or top in allowed, f"{name} imports {module}"
        homes = CONFINED.get(top)
        assert homes is None or name.startswith(homes), f"{name} imports {module}, which belongs in {homes}"
        assert room != "jobs" or top not in NOT_IN_THE_CORE, (
            f"{name} imports {module}: the core has no I/O, no clock"
        )


def test_no_key_is_spelled_outside_keys_py() -> None:
    for path in FILES:
        if path.name != "keys.py":
            assert "penstock:" not in path.read_text().replace("penstock: ", ""), path
    for path in (ROOT / "broker" / "lua").glob("*.lua"):
        assert "penstock" not in path.read_text(), path
