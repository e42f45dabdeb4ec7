"""Engines with parsers of reasoning and of tools, over a running engine's client: an app costs a second."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.e2e.vllm_servers import Frontend
from workers.devices.tiny_models import CHAT_TEMPLATE
from workers.engines.base import Engine
from workers.engines.vllm.engine import VllmEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from workers.engines.settings import VllmSettings

OPENS = "{%- if enable_thinking is defined and not enable_thinking %}{{ '\\n</think>\\n\\n' }}{%- endif %}"
TEMPLATE = CHAT_TEMPLATE.replace(
    "<|im_start|>assistant\\n' }}{%- endif %}",
    "<|im_start|>assistant\\n<think>\\n' }}" + OPENS + "{%- endif %}",
)
"""Opens the reasoning, as those of most models do, and closes it if the request wants none."""


@asynccontextmanager
async def parsing(
    engine: Engine, settings: VllmSettings, folder: Path, *flags: str
) -> AsyncIterator[tuple[Engine, httpx.AsyncClient]]:
    """Yield an engine whose app has other flags, and a client of vLLM's own server with the same flags.

    Args:
        engine: runs already. Its engine client serves both.
        settings: its settings.
        folder: gets the chat template.
        flags: of the parsers.
    """
    from vllm.entrypoints.cli.serve import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    template = folder / "template.jinja"
    template.write_text(TEMPLATE)
    more = (*settings.extra_args, f"--chat-template={template}", *flags)
    other = VllmEngine(replace(settings, tool_call_parser=None, extra_args=more))
    shared: Any = engine
    other._llm = shared._llm
    other._front.compact.taps = shared._front.compact.taps  # into which the engine client looks
    await other._open(make_arg_parser(FlexibleArgumentParser()).parse_args(other._settings.argv()))
    async with (
        Frontend(other, other._settings) as frontend,
        httpx.AsyncClient(base_url=frontend.url, timeout=60) as client,
    ):
        yield other, client
