"""Every list answers an ``after`` that cannot be of it alike: 400, and the OpenAPI document says so."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from jobs.endpoints import RESPONSES
from tests.integration.test_api_openai import BODY, CHAT
from tests.puppet import FACTS, Puppet
from tools.openapi_document import openapi

pytestmark = pytest.mark.asyncio

PATHS: dict[str, Any] = openapi()["paths"]
LISTS = [
    path
    for path, operations in PATHS.items()
    if not path.endswith("/events")
    and any(one["name"] == "after" for one in operations.get("get", {}).get("parameters", ()))
]
"""The paths that take ``after``."""


async def test_an_after_that_is_not_of_the_list_is_answered_alike(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    assert len(LISTS) >= 14
    await puppet.live(facts={**FACTS, "endpoints": [CHAT, RESPONSES]})
    ids = await made(http, puppet)
    for path in LISTS:
        url = path.format_map(ids)
        assert (await http.get(url)).status_code == 200, path
        got = await http.get(url, params={"after": "no such one"})
        error = got.json()["error"]
        assert (got.status_code, error["code"], error["param"]) == (400, "invalid_request", "after"), path
        assert error["message"].startswith("after"), path
        assert "400" in PATHS[path]["get"]["responses"], path


async def made(http: httpx.AsyncClient, puppet: Puppet) -> dict[str, str]:
    """Make one of each thing that has a list; return their ids by the names in the paths."""

    async def post(path: str, **body: Any) -> Any:
        return (await http.post(path, json=body)).raise_for_status().json()

    job = (await post("/v1/jobs", endpoint=CHAT, input=BODY))["id"]
    await puppet.succeed(await puppet.take(), b'{"choices":[]}')
    response = await post("/v1/responses", model=BODY["model"], input="hi", background=True)
    await puppet.succeed(await puppet.take(), b'{"output":[]}')
    rows = {"file": ("rows.jsonl", b"{}\n")}
    file = (await http.post("/v1/files", data={"purpose": "batch"}, files=rows)).json()
    batch = await post("/v1/batches", input_file_id=file["id"], endpoint=CHAT, completion_window="24h")
    return {
        "job_id": job,
        "completion_id": f"chatcmpl-{job}",
        "response_id": response["id"],
        "conversation_id": (await post("/v1/conversations"))["id"],
        "webhook_id": (await post("/v1/webhooks", url="https://example.com/hook"))["id"],
        "batch_id": batch["id"],
    }
