"""Fixtures: the tiny model, one running vLLM engine, and vLLM's own HTTP app over that engine.

Each is made once per session, on first use. They live on the session's event loop, so tests that use them are marked
``asyncio(loop_scope="session")`` and ``xdist_group("vllm")``: one test process holds them, and no two vLLMs start at once.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.vllm_servers import Frontend, server_process
from workers.devices.tiny_models import build_tiny_model
from workers.engines.base import Engine
from workers.engines.factory import make_engine
from workers.engines.settings import OpenAISettings, SimulatedSettings, VllmSettings
from workers.engines.vllm.step_cost import StepCost

QUICK_ENV = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
PACE = StepCost(base_s=0.004, per_decode_s=0.0001, per_prompt_token_s=0.00001)
PACED_BLOCKS, PACED_STEP_TOKENS = 700, 2048
"""The paced engine's steps, its blocks of 16 tokens, and the most tokens of a step."""

QUICK_FLAGS = ("--distributed-executor-backend=uni",)
"""With these vLLM runs the model in its engine process, as it does on one GPU. By default it starts one more process on a
CPU, which imports torch and vLLM again: 20 s of CPU time for a start instead of 13 s."""


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model; kept between sessions if PENSTOCK_TEST_CACHE names a folder."""
    cache = os.environ.get("PENSTOCK_TEST_CACHE")
    return build_tiny_model(Path(cache) if cache else tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def vllm_settings(tiny_model_path: Path) -> Iterator[VllmSettings]:
    """How the engine and vLLM's own server run the tiny model."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK_ENV.items():
            patch.setenv(name, value)
        yield VllmSettings.tiny(tiny_model_path, max_num_seqs=16, extra_args=QUICK_FLAGS)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_engine(vllm_settings: VllmSettings) -> AsyncIterator[Engine]:
    """A running ``vllm`` engine."""
    engine = make_engine(vllm_settings)
    await engine.start()
    yield engine
    await engine.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_frontend(vllm_engine: Engine, vllm_settings: VllmSettings) -> AsyncIterator[str]:
    """The base URL of vLLM's own HTTP app over ``vllm_engine``. It answers on this event loop: ask it with await."""
    async with Frontend(vllm_engine, vllm_settings) as frontend:
        yield frontend.url


@pytest.fixture(scope="session")
def vllm_process(vllm_settings: VllmSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of vLLM's own server, in a process of its own with an engine of its own, as `vllm serve` starts it."""
    settings = replace(vllm_settings, extra_args=())
    env = {name: value for name, value in os.environ.items() if name not in QUICK_ENV}
    with server_process(settings, env, tmp_path_factory.mktemp("server") / "log") as url:
        yield url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def openai_engine(vllm_frontend: str) -> AsyncIterator[Engine]:
    """An ``openai`` engine over vLLM's own HTTP app."""
    endpoints = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
    engine = make_engine(OpenAISettings(vllm_frontend, endpoints=endpoints))
    await engine.start()
    yield engine
    await engine.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def openai_process_engine(vllm_process: str) -> AsyncIterator[Engine]:
    """An ``openai`` engine over vLLM's own server."""
    endpoints = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
    engine = make_engine(OpenAISettings(vllm_process, endpoints=endpoints))
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


@pytest.fixture(scope="session")
def paced_settings(tiny_model_path: Path) -> VllmSettings:
    """A pace of a few milliseconds, and a KV cache of some 11,000 tokens."""
    model = build_tiny_model(tiny_model_path.parent, "paced")
    return VllmSettings(
        model=str(model),
        served_model_name=("paced",),
        enforce_eager=True,
        max_model_len=8192,
        max_num_seqs=16,
        tool_call_parser="hermes",
        paced=PACE,
        extra_args=(
            f"--num-gpu-blocks-override={PACED_BLOCKS}",
            f"--max-num-batched-tokens={PACED_STEP_TOKENS}",
        ),
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def paced_engine(paced_settings: VllmSettings) -> AsyncIterator[Engine]:
    """A running paced engine."""
    engine = make_engine(paced_settings)
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture(
    scope="session",
    params=[
        *("simulated", "vllm", "openai"),
        *(pytest.param(name, marks=pytest.mark.full) for name in ("openai_process", "paced")),
    ],
)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn."""
    made: Engine = request.getfixturevalue(f"{request.param}_engine")
    return made
