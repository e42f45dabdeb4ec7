"""Audio: uploaded to the storage, run from there, and answered in the format that was asked for."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from broker.jobs import JobStore
from jobs.endpoints import TRANSCRIPTIONS, TRANSLATIONS
from jobs.failures import FailureCode
from jobs.model import JobError
from jobs.references import upload_key
from jobs.states import JobState
from jobs.stream_chunks import Frames
from penstock.server.valkey import EmbeddedServer
from storage.local import LocalStorage
from tests.apiserver import ApiServer
from tests.integration.test_large_bodies import objects, retire, swept
from tests.namespaces import new_namespace
from tests.puppet import FACTS, Puppet
from tests.support import eventually
from workers.inputs import Inputs, NoSuchFileError

pytestmark = pytest.mark.asyncio

WAV = b"RIFF....WAVE" + bytes(range(256)) * 40
PNG = b"\x89PNG\r\n\x1a\n" + b"." * 50
HEARS = {**FACTS, "endpoints": [TRANSCRIPTIONS, TRANSLATIONS, "/v1/chat/completions"]}


class House:
    """An api, a worker on strings, and the storage that they share."""

    def __init__(self, api: ApiServer, http: httpx.AsyncClient, puppet: Puppet, folder: Path) -> None:
        self.api, self.http, self.puppet, self.folder = api, http, puppet, folder
        storage = LocalStorage(folder)
        self.inputs = Inputs(
            puppet.store,
            lambda: storage,
            image_max_bytes=api.settings.image_max_bytes,
            request_images_max_bytes=api.settings.request_images_max_bytes,
            request_images_max=api.settings.request_images_max,
        )

    async def call(self, path: str = TRANSCRIPTIONS, **fields: str) -> httpx.Response:
        form = {"model": "puppet", **fields}
        return await self.http.post(path, data=form, files={"file": ("a.wav", WAV, "audio/wav")})

    async def upload(self, data: bytes, name: str = "a.wav") -> str:
        answer = await self.http.post(
            "/v1/files", data={"purpose": "user_data"}, files={"file": (name, data)}
        )
        return answer.json()["id"]

    async def submit(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return await self.http.post("/v1/jobs", json={"endpoint": path, "input": {"model": "puppet", **body}})


@pytest.fixture(scope="module")
def shared_api(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One api for all tests of this module, with a storage of its own."""
    data = tmp_path_factory.mktemp("data")
    bounds = {"audio_max_bytes": 20_000, "image_max_bytes": 1024, "request_images_max_bytes": 3000}
    with ApiServer(new_namespace(valkey), data_dir=data, **bounds) as server:
        yield server


@pytest_asyncio.fixture
async def house(api: ApiServer, store: JobStore, http: httpx.AsyncClient) -> House:
    folder = api.settings.data_dir / "files"
    shutil.rmtree(folder / "bodies", ignore_errors=True)
    puppet = Puppet(store)
    await puppet.live(facts=HEARS, shares_storage=True)
    return House(api, http, puppet, folder)


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, TRANSLATIONS])
async def test_a_call_s_file_reaches_the_worker_and_goes_with_the_record(house: House, path: str) -> None:
    fields = {"language": "en", "temperature": "0", "timestamp_granularities[]": "word"}
    asked = asyncio.create_task(house.call(path, **fields))
    claim = await house.puppet.take()
    body, upload = await house.inputs.of(claim)
    assert (upload.filename, upload.data) == ("a.wav", WAV)
    read = json.loads(body)
    assert read.pop("file").startswith("sha256:")
    assert read == {
        "model": "puppet",
        "language": "en",
        "temperature": "0",
        "timestamp_granularities[]": ["word"],
    }
    assert await house.puppet.store.client.memory_usage(house.puppet.store.keys("job", claim.id)) < 3000
    await house.puppet.succeed(claim, b'{"text":"hello"}')
    answer = await asked
    assert (answer.json(), answer.headers["content-type"]) == ({"text": "hello"}, "application/json")
    assert objects(house.folder) == {f"{claim.id}.upload.0"}
    await retire(house.puppet.store, house.api.settings)
    await swept(house.puppet.store, house.folder)
    assert not objects(house.folder)


async def test_a_repeated_call_with_a_key_gets_the_same_answer(house: House) -> None:
    def call(data: bytes) -> asyncio.Task[httpx.Response]:
        given: dict[str, Any] = {"data": {"model": "puppet"}, "files": {"file": ("a.wav", data, "audio/wav")}}
        return asyncio.create_task(
            house.http.post(TRANSCRIPTIONS, headers={"idempotency-key": "k-1"}, **given)
        )

    first = call(WAV)
    claim = await house.puppet.take()
    second = call(WAV)
    await house.puppet.succeed(claim, b'{"text":"hello"}')
    answers = [await first, await second, await call(WAV)]
    assert {(got.status_code, got.text) for got in answers} == {(200, '{"text":"hello"}')}
    assert (await call(WAV + b".")).json()["error"]["code"] == "idempotency_conflict"


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
async def test_a_text_is_answered_as_text_and_is_json_in_the_job(house: House, form: str) -> None:
    asked = asyncio.create_task(house.call(response_format=form))
    claim = await house.puppet.take()
    await house.puppet.succeed(claim, json.dumps("1\nhé").encode())
    answer = await asked
    assert (answer.text, answer.headers["content-type"]) == ("1\nhé", "text/plain; charset=utf-8")
    result = await house.http.get(f"/v1/jobs/{claim.id}/result")
    assert (result.text, result.headers["content-type"]) == ("1\nhé", "text/plain; charset=utf-8")
    assert (await house.http.get(f"/v1/jobs/{claim.id}")).json()["result"] == "1\nhé"


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "no-such"}, 404, "model"),
        ({"temperature": "warm"}, 400, "temperature"),
        ({"response_format": "yaml"}, 400, "response_format"),
    ],
)
async def test_a_refused_call_leaves_nothing(
    house: House, fields: dict[str, str], status: int, param: str
) -> None:
    answer = await house.call(**fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert not objects(house.folder)
    assert await house.puppet.store.client.zcard(house.puppet.store.keys("files_announced")) == 0
    assert await house.puppet.waiting() == 0


async def test_a_call_without_a_form_or_with_a_long_file_is_refused(house: House) -> None:
    bare = await house.http.post(TRANSCRIPTIONS, json={"model": "puppet"})
    assert (bare.status_code, bare.json()["error"]["param"]) == (400, "file")
    none = await house.http.post(TRANSCRIPTIONS, files={"model": (None, "puppet")})
    assert (none.status_code, none.json()["error"]["param"]) == (400, "file")
    long = {"file": ("a.wav", b"x" * 30_000)}
    refused = await house.http.post(TRANSCRIPTIONS, data={"model": "puppet"}, files=long)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "file_too_large")
    assert "audio_max_bytes" in refused.json()["error"]["message"]
    assert not objects(house.folder)


async def test_a_retry_has_a_copy_of_the_file(house: House) -> None:
    asked = asyncio.create_task(house.call())
    claim = await house.puppet.take()
    await house.puppet.fail(claim, JobError(FailureCode.TIMEOUT, "too long"), 504)
    assert (await asked).status_code == 504
    again = (await house.http.post(f"/v1/jobs/{claim.id}/retry")).json()["id"]
    assert objects(house.folder) == {f"{claim.id}.upload.0", f"{again}.upload.0"}
    second = await house.puppet.take()
    assert (second.id, (await house.inputs.of(second))[1].data) == (again, WAV)
    await house.puppet.succeed(second, b'{"text":""}')


async def test_a_call_streams_its_chunks(house: House) -> None:
    asked = asyncio.create_task(house.call(stream="true"))
    claim = await house.puppet.take()
    assert claim.stream
    chunk = {
        "object": "transcription.chunk",
        "choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}],
    }
    await house.puppet.say(claim, Frames((json.dumps(chunk),)))
    await house.puppet.succeed(claim, b'{"text":"hi"}')
    lines = (await asked).text.split("\n\n")
    assert json.loads(lines[0].removeprefix("data: "))["choices"] == chunk["choices"]
    assert lines[1] == "data: [DONE]"


async def test_a_job_names_an_uploaded_file(house: House) -> None:
    ident = await house.upload(WAV, "b.wav")
    job = (await house.submit(TRANSCRIPTIONS, {"file": ident, "language": "en"})).json()
    claim = await house.puppet.take()
    _, upload = await house.inputs.of(claim)
    assert (claim.id, upload.filename, upload.data) == (job["id"], "b.wav", WAV)
    await house.http.delete(f"/v1/files/{ident}")
    with pytest.raises(NoSuchFileError, match=ident):
        await house.inputs.of(claim)
    await house.puppet.succeed(claim, b'{"text":""}')


async def test_a_job_without_its_file_is_refused(house: House) -> None:
    for named in ("file-" + "0" * 32, "sha256:1", upload_key("job_" + "0" * 32)):
        answer = await house.submit(TRANSCRIPTIONS, {"file": named})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found")
    missing = await house.submit(TRANSCRIPTIONS, {"language": "en"})
    assert (missing.status_code, missing.json()["error"]["param"]) == (400, "file")
    long = await house.submit(TRANSCRIPTIONS, {"file": await house.upload(b"x" * 30_000)})
    assert (long.status_code, long.json()["error"]["code"]) == (413, "file_too_large")


def shown(*urls: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 5}


async def test_a_request_may_name_an_image(house: House) -> None:
    ident = await house.upload(PNG, "a.png")
    asked = asyncio.create_task(
        house.http.post("/v1/chat/completions", json={"model": "puppet", **shown(ident)})
    )
    claim = await house.puppet.take()
    assert ident.encode() in claim.body  # Redis has the name alone
    body, upload = await house.inputs.of(claim)
    assert upload is None
    assert "data:image/png;base64,iVBOR" in body.decode()
    await house.puppet.succeed(claim, b'{"choices":[]}')
    assert (await asked).status_code == 200
    assert (await house.puppet.store.get(claim.id)).state is JobState.SUCCEEDED


async def test_an_image_that_is_none_is_refused(house: House) -> None:
    cases = {
        "file-" + "0" * 32: (404, "file_not_found"),
        await house.upload(b"%PDF-1.7", "a.pdf"): (400, "invalid_value"),
        await house.upload(b"", "a.png"): (400, "invalid_value"),
        await house.upload(PNG + b"." * 2000, "b.png"): (413, "file_too_large"),
    }
    for ident, (status, code) in cases.items():
        answer = await house.submit("/v1/chat/completions", shown(ident))
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


async def test_an_image_counts_at_each_place_at_the_edge_and_in_the_worker(house: House) -> None:
    small, large = await house.upload(PNG, "a.png"), await house.upload(PNG + b"." * 900, "b.png")
    for count, ident, status in ((65, small, 400), (4, large, 413)):
        request = shown(*[ident] * count)
        answer = await house.submit("/v1/chat/completions", request)
        assert answer.status_code == status, answer.text
        with pytest.raises(NoSuchFileError, match=f"{count} places|request_images_max_bytes"):
            await house.inputs.with_images(json.dumps(request).encode(), "default")
    most = json.dumps(shown(*[small] * 18, large, large)).encode()
    assert (await house.inputs.with_images(most, "default")).count(b"data:image/png") == 20


async def test_a_worker_reads_no_image_that_is_too_large(house: House) -> None:
    ident = await house.upload(PNG + b"." * 2500, "c.png")
    [path] = [
        path for path in house.folder.rglob("*") if path.is_file() and path.stat().st_size == len(PNG) + 2500
    ]
    path.unlink()  # whoever reads it fails otherwise
    with pytest.raises(NoSuchFileError, match="image_max_bytes"):
        await house.inputs.with_images(json.dumps(shown(ident)).encode(), "default")


async def test_another_tenant_s_files_are_none(house: House) -> None:
    ident = await house.upload(PNG, "a.png")
    body = json.dumps(shown(ident)).encode()
    assert b"data:image/png" in await house.inputs.with_images(body, "default")
    with pytest.raises(NoSuchFileError):
        await house.inputs.with_images(body, "mallory")
    plain = b'{"messages":[{"role":"user","content":"file-1"}]}'
    assert await house.inputs.with_images(plain, "mallory") is plain


async def test_a_form_that_hangs_up_leaves_nothing(house: House) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + WAV
        raise RuntimeError("the client goes")

    kind = {"content-type": "multipart/form-data; boundary=b"}
    with pytest.raises(RuntimeError):
        await house.http.post(TRANSCRIPTIONS, content=half(), headers=kind)

    async def clean() -> bool:
        return not list((house.folder / ".staging").glob("*")) and not objects(house.folder)

    await eventually(clean)
