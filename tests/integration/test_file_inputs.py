"""Files of ours in rows of batches and in calls, as another server gets them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from jobs.endpoints import TRANSCRIPTIONS
from tests.apiserver import ApiServer
from tests.batching import create, ended, lines
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.upstream import Answer, Upstream

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio

PNG = b"\x89PNG\r\n\x1a\n" + b"." * 50
WAV = b"RIFF....WAVE\r\n--" + bytes(range(256))


def shown(name: str, url: str, places: int = 1) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}}] * places
    body = {"model": "upstream", "messages": [{"role": "user", "content": parts}], "max_tokens": 5}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


async def test_a_row_gets_its_image_and_one_without_fails_alone(
    client: openai.AsyncOpenAI, work: Callable
) -> None:
    seen = []

    def answer(body: dict[str, Any]) -> Answer:
        seen.append(body["messages"][0]["content"][0]["image_url"]["url"])
        return 200, "application/json", b'{"object":"chat.completion","choices":[]}'

    image = await client.files.create(file=("a.png", PNG), purpose="vision")
    text = await client.files.create(file=("a.txt", b"no image"), purpose="user_data")
    missing = "file-" + "0" * 32
    with Upstream(answer) as upstream:
        await work(engine="openai", openai_base_url=upstream.url)
        rows = [shown("good", image.id), shown("missing", missing), shown("text", text.id)]
        rows.append(shown("often", image.id, 65))
        batch = await ended(client, (await create(client, rows)).id)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 3)
    assert seen == [f"data:image/png;base64,{base64.b64encode(PNG).decode()}"]
    for line in await lines(client, batch.error_file_id):
        told = line["response"]
        assert (told["status_code"], told["body"]["error"]["code"]) == (404, "file_not_found")
        named = {"missing": missing, "text": text.id, "often": "65 places"}[line["custom_id"]]
        assert named in told["body"]["error"]["message"]


async def test_rows_name_no_end_users_to_the_engine(client: openai.AsyncOpenAI, work: Callable) -> None:
    seen = []

    def answer(body: dict[str, Any]) -> Answer:
        seen.append(body)
        return 200, "application/json", b'{"object":"chat.completion","choices":[]}'

    row = shown("one", "https://example.org/a.png")
    row["body"] |= {"safety_identifier": "ann@example.org", "user": "u"}
    with Upstream(answer) as upstream:
        await work(engine="openai", openai_base_url=upstream.url)
        batch = await ended(client, (await create(client, [row])).id)
    assert batch.request_counts.completed == 1
    assert [(one["user"], "safety_identifier" in one) for one in seen] == [("u", False)]


async def test_a_server_gets_the_form_and_its_text_is_answered(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable
) -> None:
    forms: list[bytes] = []

    def answer(body: dict[str, Any]) -> Answer:
        forms.append(body["form"])
        if b'name="response_format"\r\n\r\nsrt' in body["form"]:
            return 200, "application/x-subrip", b"1\n00:00:00,000 --> 00:00:01,000\nhello\n"
        return 200, "application/json", b'{"text":"hello"}'

    with Upstream(answer) as upstream:
        await work(engine="openai", openai_base_url=upstream.url, openai_endpoints=TRANSCRIPTIONS)
        options: Any = {"model": "upstream", "file": ("a.wav", WAV), "language": "en"}
        whole = await client.audio.transcriptions.create(**options)
        subtitles = await client.audio.transcriptions.create(**options, response_format="srt")
        text = await client.audio.transcriptions.create(**options, response_format="text")
        file = await client.files.create(file=("a.wav", WAV), purpose="user_data")
        asked = {"endpoint": TRANSCRIPTIONS, "input": {"model": "upstream", "file": file.id}}
        async with api.client() as http:
            job = (await http.post("/v1/jobs?wait=20", json=asked)).json()
    assert (whole.text, text) == ("hello", "hello")
    assert subtitles == "1\n00:00:00,000 --> 00:00:01,000\nhello\n"
    assert job["result"] == {"text": "hello"}
    assert len(forms) == 4
    assert all(b'filename="a.wav"' in form and WAV in form for form in forms)
    assert b'name="language"\r\n\r\nen\r\n' in forms[0]
    assert json.dumps(file.id).encode() not in forms[3]
