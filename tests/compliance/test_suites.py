"""The public compliance suites, unchanged, from their packages: what fails is exactly what the tables here explain."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from tests.compliance.conftest import MODEL
from tests.compliance.environments import node_package, python_package
from tests.e2e.stacks import Stack

pytestmark = [pytest.mark.full, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]

NO_EYES = "the tiny model reads no images; vLLM refuses them for it"
FREE_ARGUMENTS = (
    "vLLM holds a tool's arguments to its schema only if the tool is `strict`, and the suite's is not: the tiny model,"
    " whose words are random, writes arguments that are no object, and vLLM refuses its own answer"
)
NOT_THAT_MODEL = "the suite asks this of models with certain names only"

LLM_COMPLY: dict[str, tuple[int, dict[str, str]]] = {
    "open-responses": (13, {"image-input": NO_EYES, "reasoning-summary": NOT_THAT_MODEL}),
    "openai-chat": (9, {"chat-image-input": NO_EYES, "chat-reasoning-summary": NOT_THAT_MODEL}),
    "anthropic": (
        9,
        {
            "anth-image-input": NO_EYES,
            "anth-thinking-display": NOT_THAT_MODEL,
            "anth-tool-calling": FREE_ARGUMENTS,
        },
    ),
}
"""By suite: its tests, and why those that do not pass do not. A test that passes leaves this table."""


def run(command: list[str], *, codes: set[int]) -> str:
    """Run a suite; return what it wrote."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PENSTOCK_"))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=600)
    assert done.returncode in codes, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_compatcanary(compliant_stack: Stack) -> None:
    command = node_package("compatcanary@0.2.2", "src/cli.js")
    command += ["scan", "--base-url", f"{compliant_stack.url}/v1", "--model", MODEL, "--api-key", "none"]
    command += ["--format", "json", "--timeout", "120", "--fail-on", "never"]
    report: dict[str, Any] = json.loads(run(command, codes={0}))
    unpassed = {one["id"]: one["summary"] for one in report["results"] if one["status"] != "pass"}
    assert unpassed == {}
    assert report["score"] == 100


@pytest.mark.parametrize("suite", LLM_COMPLY)
def test_llm_comply(compliant_stack: Stack, suite: str) -> None:
    program = python_package("llm-comply==0.5.0", "jsonschema==4.26.0", program="llm-comply")
    command = [str(program), f"--base-url={compliant_stack.url}/v1", f"--model={MODEL}", "--api-key=none"]
    told = json.loads(run([*command, f"--format={suite}", "--json", "--timeout=120"], codes={0, 1}))
    unpassed = {one["id"]: one["errors"] for one in told["results"] if one["status"] != "passed"}
    tests, explained = LLM_COMPLY[suite]
    assert len(told["results"]) == tests
    assert unpassed.keys() == explained.keys(), unpassed
