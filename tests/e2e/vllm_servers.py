"""vLLM's own OpenAI server: its HTTP app over an engine that runs in this process, or the whole server as a process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import httpx
import uvicorn

from tests.support import eventually, free_port, wait_until
from workers.engines.base import Engine
from workers.engines.settings import VllmSettings

START_TIMEOUT_S = 120


class Frontend:
    """vLLM's own HTTP app, built as `vllm serve` builds it, over the client of a running ``vllm`` engine.

    It serves on the event loop that enters it. After a restart of the engine it builds the app anew.
    """

    def __init__(self, engine: Engine, settings: VllmSettings) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._engine: Any = engine
        self._settings = settings
        self._client: Any = None
        self._app: Any = None
        self._building = asyncio.Lock()
        config = uvicorn.Config(
            self._serve, port=port, interface="asgi3", lifespan="off", log_level="warning"
        )
        self._server = _Quiet(config)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._server.serve(), name="frontend")
        await eventually(lambda: self._server.started or self._task.done())
        assert self._server.started
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.should_exit = True
        await self._task

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        async with self._building:
            if self._client is not self._engine._llm:
                self._client = self._engine._llm
                self._app = await self._build()
        await self._app(scope, receive, send)

    async def _build(self) -> Any:
        from vllm.entrypoints.cli.serve import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        try:
            from vllm.entrypoints.launchers.api_server.app_state import init_app_state
            from vllm.entrypoints.launchers.app import build_app
        except ImportError:  # vLLM before 0.29
            from vllm.entrypoints.openai.api_server import build_app, init_app_state
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(self._settings.argv())
        tasks = await self._client.get_supported_tasks()
        app = build_app(args, tasks, self._client.model_config)
        await init_app_state(self._client, app.state, args, tasks)
        return app


class _Quiet(uvicorn.Server):
    """A server that leaves the signals to pytest."""

    def capture_signals(self) -> Any:
        return nullcontext()


@contextmanager
def server_process(settings: VllmSettings, env: Mapping[str, str], log: Path) -> Iterator[str]:
    """Run vLLM's own server as a process of its own; yields its base URL."""
    port = free_port()
    # The module, because the "vllm" command of the CPU package does not run.
    command = [sys.executable, "-W", "ignore", "-m", "vllm.entrypoints.openai.api_server", *settings.argv()]
    env = {**env, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    with log.open("wb") as sink:
        server = subprocess.Popen(
            [*command, "--host=127.0.0.1", f"--port={port}"], stdout=sink, stderr=subprocess.STDOUT, env=env
        )
    url = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        assert server.poll() is None, f"vLLM's server did not start:\n{log.read_text()[-3000:]}"
        try:
            return httpx.get(f"{url}/health").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False  # not listening yet

    try:
        wait_until(healthy, START_TIMEOUT_S)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=60)
