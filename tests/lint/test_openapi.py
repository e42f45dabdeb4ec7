"""The OpenAPI document: what clients are generated from names everything, and takes nothing from them unsaid."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest

from tools import openapi_document
from tools.openapi_changes import breaking_changes

DOCUMENT: dict[str, Any] = openapi_document.openapi()
JOB = "/v1/jobs/{job_id}"
Change = Callable[[dict[str, Any]], object]


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, by_method in DOCUMENT["paths"].items():
        for method, operation in by_method.items():
            yield f"{method.upper()} {path}", operation


def test_it_is_valid() -> None:
    openapi_spec_validator.validate(DOCUMENT)


def test_every_operation_has_an_id_of_its_own_that_was_chosen() -> None:
    ids: dict[str, str] = {}
    for place, operation in operations():
        ident = operation["operationId"]
        assert re.fullmatch(r"[a-z]+([A-Z][a-z]+)*(Alias\d)?", ident), f"{place}: {ident} was not chosen"
        assert ids.setdefault(ident, place) == place
    assert len(ids) > 90


def test_every_answer_says_what_it_is() -> None:
    silent = {"POST /v1/responses/compact"}  # it only refuses
    for place, operation in operations():
        found = [
            answer for status, answer in operation["responses"].items() if status in {"200", "201", "202"}
        ]
        contents = [content for answer in found for content in answer.get("content", {}).items()]
        assert contents or place in silent, place
        for kind, content in contents:
            assert content.get("schema") or kind in {"application/octet-stream", "application/jsonl"}, place
            if kind == "text/event-stream":
                name = content["schema"]["$ref"].rpartition("/")[2]
                assert name.endswith("Event"), place


def changed(change: Change) -> list[str]:
    document = copy.deepcopy(DOCUMENT)
    change(document)
    return breaking_changes(DOCUMENT, document)


def schema(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


def states(document: dict[str, Any]) -> list[str]:
    found: list[str] = schema(document, "JobObject")["properties"]["state"]["enum"]
    return found


@pytest.mark.parametrize(
    ("said", "change"),
    [
        (f"GET {JOB}: removed", lambda d: d["paths"][JOB].pop("get")),
        (f"GET {JOB}: removed", lambda d: d["paths"].pop(JOB)),
        (
            "GET /v1/jobs: operationId listJobs became jobs",
            lambda d: d["paths"]["/v1/jobs"]["get"].update(operationId="jobs"),
        ),
        (
            "GET /v1/jobs: query parameter state removed",
            lambda d: d["paths"]["/v1/jobs"]["get"]["parameters"].pop(0),
        ),
        (
            "GET /v1/jobs: query parameter state is required",
            lambda d: d["paths"]["/v1/jobs"]["get"]["parameters"][0].update(required=True),
        ),
        (
            "POST /v1/jobs: answer 200 removed",
            lambda d: d["paths"]["/v1/jobs"]["post"]["responses"].pop("200"),
        ),
        (
            "GET /v1/jobs/{job_id}/events: answer 200: text/event-stream removed",
            lambda d: d["paths"][f"{JOB}/events"]["get"]["responses"]["200"].update(content={}),
        ),
        (
            "POST /v1/workers/{name}/drain: the body is required",
            lambda d: d["paths"]["/v1/workers/{name}/drain"]["post"]["requestBody"].update(required=True),
        ),
        (
            "JobObject (answered): worker removed",
            lambda d: schema(d, "JobObject")["properties"].pop("worker"),
        ),
        (
            "JobObject (answered): worker may be missing",
            lambda d: schema(d, "JobObject")["required"].remove("worker"),
        ),
        (
            "JobObject (answered): model: may be null",
            lambda d: schema(d, "JobObject")["properties"].update(
                model={"anyOf": [{"type": "string"}, {"type": "null"}]}
            ),
        ),
        (
            "JobObject (answered): model: no longer string",
            lambda d: schema(d, "JobObject")["properties"]["model"].update(type="integer"),
        ),
        ("JobRequest (sent): store removed", lambda d: schema(d, "JobRequest")["properties"].pop("store")),
        (
            "JobRequest (sent): store is required",
            lambda d: schema(d, "JobRequest")["required"].append("store"),
        ),
        (
            "JobRequest (sent): priority: accepts only high, low, normal",
            lambda d: schema(d, "JobRequest")["properties"]["priority"]["enum"].remove("bulk"),
        ),
        (
            "JobRequest (sent): max_attempts: maximum 10 became 5",
            lambda d: schema(d, "JobRequest")["properties"]["max_attempts"].update(maximum=5),
        ),
        (
            "ChatRequest (sent): unknown members are refused",
            lambda d: schema(d, "ChatRequest").update(additionalProperties=False),
        ),
        ("JobObject (answered): state: is never expired", lambda d: states(d).remove("expired")),
        ("JobObject (answered): state: may be a", lambda d: states(d).append("a")),
        (
            "JobObject (answered): state: may be any string",
            lambda d: schema(d, "JobObject")["properties"]["state"].pop("enum"),
        ),
        (
            "JobList (answered): data: items may be anything",
            lambda d: schema(d, "JobList")["properties"]["data"].pop("items"),
        ),
        (
            "JobRequest (sent): priority: default normal became low",
            lambda d: schema(d, "JobRequest")["properties"]["priority"].update(default="low"),
        ),
        (
            "JobRequest (sent): max_attempts: multipleOf None became 2",
            lambda d: schema(d, "JobRequest")["properties"]["max_attempts"].update(multipleOf=2),
        ),
        (
            f"GET {JOB}: api_key and jobs:read no longer suffices",
            lambda d: d["paths"][JOB]["get"].update(security=[{"new": []}]),
        ),
        (f"GET {JOB}: answer 404 removed", lambda d: d["paths"][JOB]["get"]["responses"].pop("404")),
        ("JobEvent (answered): no longer JobChunkEvent", lambda d: schema(d, "JobEvent")["anyOf"].pop(3)),
    ],
)
def test_the_gate_names_what_breaks(said: str, change: Change) -> None:
    assert said in changed(change)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: None,
        lambda d: d["paths"].update({"/v1/new": {"get": {"operationId": "getNew", "responses": {}}}}),
        lambda d: d["paths"]["/v1/jobs"]["get"]["parameters"].append(
            {"in": "query", "name": "q", "schema": {}}
        ),
        lambda d: schema(d, "JobRequest")["properties"].update(new={"type": "string"}),
        lambda d: schema(d, "JobRequest")["properties"]["priority"]["enum"].append("urgent"),
        lambda d: schema(d, "JobRequest")["properties"]["max_attempts"].update(maximum=20),
        lambda d: schema(d, "JobObject")["properties"].update(new={"type": "string"}),
        lambda d: schema(d, "JobObject")["required"].append("result"),
        lambda d: schema(d, "JobRequest")["properties"]["max_attempts"].update(type="number"),
        lambda d: schema(d, "JobEvent")["anyOf"].append(
            {"type": "object", "properties": {"event": {"const": "new"}}}
        ),
        lambda d: schema(d, "JobObject").update(description="Other words."),
    ],
)
def test_additions_and_words_pass(change: Change) -> None:
    assert changed(change) == []


def test_the_gate_asks_for_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = copy.deepcopy(DOCUMENT)
    before["paths"]["/v1/old"] = {"get": {"operationId": "getOld", "responses": {}}}
    (tmp_path / "openapi.json").write_text(json.dumps(before))
    reasons = tmp_path / "reasons.md"
    reasons.write_text("nothing")
    monkeypatch.setattr(openapi_document, "DOCUMENT", tmp_path / "openapi.json")
    monkeypatch.setattr(openapi_document, "REASONS", reasons)
    assert openapi_document.unexplained() == ["GET /v1/old: removed"]
    reasons.write_text("- `GET /v1/old: removed`: nobody called it\n")
    assert openapi_document.unexplained() == []
