"""Every code that an error body can hold has a series from the start."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from api.http.errors import ERROR_CODES
from jobs.failures import FAILURES
from monitoring.metrics.api import STATUSES

API = Path(__file__).parents[2] / "api"
PLACE = {"ApiError": 2, "invalid": 2, "_rate_limit": 1}
"""Where the code stands among the arguments of what makes an error."""


def codes(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in PLACE:
            continue
        given = [*node.args[PLACE[node.func.id] : PLACE[node.func.id] + 1]]
        given += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
        yield from (
            one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)
        )


def test_statuses_are_listed() -> None:
    calls = (
        node
        for path in API.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ApiError"
    )
    answered = {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}
    answered |= {facts.http_status for facts in FAILURES.values()}
    assert {401, 405, 507} <= answered
    assert {str(status) for status in answered} <= set(STATUSES)


def test_codes_are_listed() -> None:
    missing = {code for path in API.rglob("*.py") for code in codes(path)} - set(ERROR_CODES)
    assert not missing, f"add {missing} to ERROR_CODES in api/http/errors.py"


def test_the_walk_finds_codes() -> None:
    found = {code for path in API.rglob("*.py") for code in codes(path)}
    assert {"queue_full", "unsupported", "body_too_large"} <= found
    assert len(ERROR_CODES) == len(set(ERROR_CODES))
