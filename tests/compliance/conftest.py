"""`penstock up` with real vLLM and a tiny model whose texts in JSON end, as the suites run against it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.engines import QUICK_ENV, QUICK_FLAGS
from tests.e2e.stacks import Stack, start_stack, stop_stack
from workers.devices.tiny_models import build_tiny_model

MODEL = "tiny-quotes"

_FLAGS = (
    *QUICK_FLAGS,
    "--enforce-eager",
    "--dtype=float32",
    "--enable-auto-tool-choice",
    "--tool-call-parser=hermes",
)


@pytest.fixture(scope="session")
def compliant_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, with answers in the form of the specifications."""
    folder = tmp_path_factory.mktemp("compliance")
    stack = start_stack(
        folder,
        "--no-flower",
        f"--model={build_tiny_model(folder, 'quotes')}",
        f"--alias={MODEL}",
        "--kv-cache-gib=0.25",
        *(f"--engine-arg={flag}" for flag in _FLAGS),
        timeout_s=400,
        **QUICK_ENV,
        PENSTOCK_OPENAI_STRICT="true",
    )
    yield stack
    stop_stack(stack)
