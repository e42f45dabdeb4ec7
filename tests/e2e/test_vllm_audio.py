"""Speech to text with a tiny Whisper: equal to vLLM's own answers, and through the stack with the `openai` SDK."""

from __future__ import annotations

import io
import json
import math
import struct
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from jobs.endpoints import TRANSCRIPTIONS, TRANSLATIONS
from jobs.stream_chunks import Chunk, Frames
from tests.e2e.engines import QUICK_FLAGS
from tests.e2e.stacks import Stack, start_stack, stop_stack
from tests.e2e.vllm_servers import Frontend
from tests.support import wait_until
from workers.devices.tiny_models import TINY_MODELS, build_tiny_model
from workers.engines.base import Engine, EngineRequest, Final, Upload
from workers.engines.factory import make_engine
from workers.engines.settings import VllmSettings

pytest.importorskip("soundfile")

MODEL = "tiny-whisper"

pytestmark = [pytest.mark.xdist_group("vllm"), pytest.mark.full]


def sound(hz: float, seconds: float = 2.0, rate: int = 16_000) -> bytes:
    """Return a tone as a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        tone = (12_000 * math.sin(2 * math.pi * hz * n / rate) for n in range(int(seconds * rate)))
        file.writeframes(b"".join(struct.pack("<h", int(value)) for value in tone))
    return out.getvalue()


LOW, HIGH = sound(220), sound(1760)
FIELDS = {"model": MODEL, "language": "en", "temperature": "0", "max_completion_tokens": "12"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def whisper(
    vllm_settings: VllmSettings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Engine, httpx.AsyncClient]]:
    """The engine, and vLLM's own app over it; ``vllm_settings`` sets the environment."""
    folder: Path = tmp_path_factory.mktemp("models")
    path = build_tiny_model(folder, TINY_MODELS[MODEL])
    settings = VllmSettings.tiny(path, name=MODEL, max_num_seqs=16, extra_args=QUICK_FLAGS)
    engine = make_engine(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # vLLM: a forked Whisper may hang at its start
        await engine.start()
    try:
        async with Frontend(engine, settings) as front, httpx.AsyncClient(base_url=front.url) as client:
            yield engine, client
    finally:
        await engine.stop()


async def run(
    engine: Engine,
    fields: dict[str, str],
    audio: bytes = LOW,
    path: str = TRANSCRIPTIONS,
    ident: str = "job_1",
) -> tuple[Final, list[Chunk]]:
    chunks: list[Chunk] = []
    body = json.dumps({"file": "sha256:0", **fields}).encode()
    request = EngineRequest(ident, path, body, fields.get("stream") == "true", upload=Upload("a.wav", audio))
    return await engine.run(request, chunks.append), chunks


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("path", [TRANSCRIPTIONS, TRANSLATIONS])
@pytest.mark.parametrize("form", ["json", "verbose_json"])
async def test_an_answer_is_vllms_own(whisper: Any, path: str, form: str) -> None:
    engine, theirs = whisper
    (model,) = engine.models()
    assert {TRANSCRIPTIONS, TRANSLATIONS} <= set(model.endpoints)
    fields = {**FIELDS, "response_format": form}
    final, chunks = await run(engine, fields, path=path)
    answer = await theirs.post(path, data=fields, files={"file": ("a.wav", LOW)})
    assert (final.status, json.loads(final.body), chunks) == (200, answer.json(), [])


@pytest.mark.asyncio(loop_scope="session")
async def test_another_sound_is_another_text(whisper: Any) -> None:
    texts = {json.loads((await run(whisper[0], FIELDS, audio))[0].body)["text"] for audio in (LOW, HIGH)}
    assert len(texts) == 2
    assert all(texts)


@pytest.mark.asyncio(loop_scope="session")
async def test_texts_and_subtitles(whisper: Any) -> None:
    engine, _ = whisper
    whole = json.loads((await run(engine, FIELDS))[0].body)["text"]
    text = json.loads((await run(engine, {**FIELDS, "response_format": "text"}))[0].body)
    assert text == whole
    vtt = json.loads((await run(engine, {**FIELDS, "response_format": "vtt"}))[0].body)
    assert vtt.startswith("WEBVTT\n\n")  # the tiny model names no times
    assert isinstance(json.loads((await run(engine, {**FIELDS, "response_format": "srt"}))[0].body), str)


@pytest.mark.asyncio(loop_scope="session")
async def test_a_stream_is_the_same_text(whisper: Any) -> None:
    engine, _ = whisper
    whole = json.loads((await run(engine, FIELDS))[0].body)["text"]
    final, chunks = await run(engine, {**FIELDS, "stream": "true"})
    frames = [json.loads(frame) for chunk in chunks if isinstance(chunk, Frames) for frame in chunk.frames]
    streamed = "".join(choice["delta"].get("content") or "" for one in frames for choice in one["choices"])
    assert (streamed, json.loads(final.body)) == (whole, {"text": whole})
    assert final.usage is not None
    assert final.usage.completion_tokens == 12


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("change", "audio"),
    [
        ({}, b"not a sound"),
        ({"language": "xx"}, LOW),
        ({"temperature": "warm"}, LOW),
        ({"model": "other"}, LOW),
    ],
)
async def test_a_refusal_is_vllms_own(whisper: Any, change: dict[str, str], audio: bytes) -> None:
    engine, theirs = whisper
    fields = FIELDS | change
    final, _ = await run(engine, fields, audio)
    answer = await theirs.post(TRANSCRIPTIONS, data=fields, files={"file": ("a.wav", audio)})
    assert 400 <= answer.status_code < 500
    assert final.status == answer.status_code
    assert json.loads(final.body)["error"]["message"] == answer.json()["error"]["message"]


@pytest.fixture(scope="module")
def speech_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = start_stack(tmp_path_factory.mktemp("stack"), f"--model={MODEL}", "--no-flower")
    yield stack
    stop_stack(stack)


def test_the_openai_sdk(speech_stack: Stack) -> None:
    client = openai.OpenAI(base_url=f"{speech_stack.url}/v1", api_key="none", max_retries=0, timeout=120)
    options: Any = {"model": MODEL, "language": "en", "temperature": 0, "file": ("a.wav", LOW)}
    audio = client.audio
    whole = audio.transcriptions.create(**options)
    assert whole.text
    assert audio.transcriptions.create(**options, response_format="text") == whole.text
    verbose = audio.transcriptions.create(**options, response_format="verbose_json")
    assert verbose.duration == 2.0
    translated = audio.translations.create(model=MODEL, file=("a.wav", LOW), temperature=0)
    assert translated.text
    with pytest.raises(openai.BadRequestError):
        audio.transcriptions.create(**options | {"file": ("a.wav", b"no sound")})
    # As a job.
    file = client.files.create(file=("a.wav", LOW), purpose="user_data")
    body = {
        "endpoint": TRANSCRIPTIONS,
        "input": {"model": MODEL, "file": file.id, "language": "en", "temperature": 0},
    }
    with httpx.Client(base_url=speech_stack.url) as http:
        job = http.post("/v1/jobs", json=body).json()
        done = wait_until(
            lambda: (one := http.get(f"/v1/jobs/{job['id']}").json())["state"] == "succeeded" and one, 60
        )
    assert done["result"]["text"] == whole.text
