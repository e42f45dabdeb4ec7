"""Other people's clients, as their authors publish them, against the whole stack with vLLM; programs are in ``sdks/``."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.compliance.environments import node_package, python_package
from tests.e2e.stacks import Stack

PROGRAMS = Path(__file__).parent / "sdks"
PINS = {
    "with_langchain.py": ("langchain-openai==1.7.4", "langchain-anthropic==1.7.10"),
    "with_litellm.py": ("litellm==1.110.2",),
    "with_pydantic_ai.py": ("pydantic-ai-slim[openai,anthropic]==2.68.0",),
}
NODE = "openai@6.49.0"

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("vllm"),
    pytest.mark.full,
    pytest.mark.timeout(600),  # the packages are installed at the first time
]


async def passes(stack: Stack, *command: str, **env: str) -> None:
    """See that a program of ours ends well; fail with what it said."""
    ours = {"PENSTOCK_URL": stack.url, "PENSTOCK_MODEL": "tiny-random", **env}
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **ours}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-4000:]
    assert said.rstrip().endswith(b": passed")


@pytest.mark.parametrize("program", PINS)
async def test_python(vllm_stack: Stack, program: str) -> None:
    python = await asyncio.to_thread(python_package, *PINS[program], program="python")
    await passes(vllm_stack, str(python), str(PROGRAMS / program))


async def test_node(vllm_stack: Stack) -> None:
    node, package = await asyncio.to_thread(node_package, NODE, "package.json")
    await passes(vllm_stack, node, str(PROGRAMS / "with_node.mjs"), PENSTOCK_SDK=package)
