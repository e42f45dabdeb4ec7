"""Audio requests with a LoRA adapter on vLLM: its app is asked for the version that is loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from jobs.endpoints import TRANSCRIPTIONS
from workers.engines.base import EngineRequest, Upload
from workers.engines.settings import VllmSettings
from workers.engines.vllm.adapters import VllmAdapters
from workers.engines.vllm.engine import VllmEngine

VERSION = Path("/copies/0123")


async def _echo(request: Request) -> JSONResponse:
    async with request.form() as form:
        return JSONResponse({"text": form["model"]})


@pytest.mark.asyncio
@pytest.mark.parametrize(("adapter", "model"), [(None, "sql"), (VERSION, "sql@version:0123")])
async def test_a_form_names_the_version_of_its_adapter(adapter: Path | None, model: str) -> None:
    engine: Any = VllmEngine(VllmSettings("m"))
    engine._front.app = Starlette(routes=[Route(TRANSCRIPTIONS, _echo, methods=["POST"])])
    engine._llm = SimpleNamespace(errored=False)
    served = SimpleNamespace(model_name=lambda _: "m")
    engine._front.adapters = VllmAdapters(engine._llm, served, engine.run, [TRANSCRIPTIONS])
    engine._front.adapters._loaded[VERSION] = SimpleNamespace(lora_name="sql@version:0123")
    request = EngineRequest(
        "r", TRANSCRIPTIONS, b'{"model":"sql"}', adapter=adapter, upload=Upload("a.wav", b"x")
    )
    final = await engine.run(request, lambda _: None)
    assert (final.status, final.body) == (200, b'{"text":"%s"}' % model.encode())
