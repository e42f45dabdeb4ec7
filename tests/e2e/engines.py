"""Fixtures: the tiny model, one running vLLM engine, and one real vLLM server of the same model.

Everything is made once per session and on first use; an engine lives on the
session's event loop, so async tests that use one are marked ``asyncio(loop_scope="session")``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.support import free_port, wait_until
from workers.devices.tiny_models import build_tiny_model
from workers.engines.base import Engine
from workers.engines.factory import make_engine
from workers.engines.settings import OpenAISettings, SimulatedSettings, VllmSettings

START_TIMEOUT_S = 120


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model; kept between sessions where PENSTOCK_TEST_CACHE names a folder."""
    cache = os.environ.get("PENSTOCK_TEST_CACHE")
    return build_tiny_model(Path(cache) if cache else tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def vllm_settings(tiny_model_path: Path) -> VllmSettings:
    """How both the engine and the server run the tiny model."""
    return VllmSettings.tiny(tiny_model_path, max_num_seqs=16)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_engine(vllm_settings: VllmSettings) -> AsyncIterator[Engine]:
    """A running ``vllm`` engine."""
    engine = make_engine(vllm_settings)
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture(scope="session")
def vllm_server(vllm_settings: VllmSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of vLLM's own server, in a process of its own."""
    port = free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    # The module, because the "vllm" command of the CPU package does not run.
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "vllm.entrypoints.openai.api_server",
        *vllm_settings.argv(),
    ]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    with log.open("wb") as sink:
        server = subprocess.Popen(
            [*command, "--host=127.0.0.1", f"--port={port}"], stdout=sink, stderr=subprocess.STDOUT, env=env
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_healthy(server, url, log)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=60)


def _wait_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    def healthy() -> bool:
        assert server.poll() is None, f"vLLM's server did not start:\n{log.read_text()[-3000:]}"
        try:
            return httpx.get(f"{url}/health").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False  # not listening yet

    wait_until(healthy, START_TIMEOUT_S)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def openai_engine(vllm_server: str) -> AsyncIterator[Engine]:
    """An ``openai`` engine over vLLM's own server."""
    engine = make_engine(OpenAISettings(vllm_server, endpoints=("/v1/chat/completions", "/v1/completions")))
    await engine.start()
    yield engine
    await engine.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def simulated_engine() -> AsyncIterator[Engine]:
    """A ``simulated`` engine that takes 2 ms per token."""
    engine = make_engine(SimulatedSettings(ttft_s=0.002, inter_token_s=0.002))
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture(scope="session", params=["simulated", "vllm", "openai"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn."""
    made: Engine = request.getfixturevalue(f"{request.param}_engine")
    return made
