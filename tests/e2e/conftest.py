"""End-to-end tests: real vLLM, real servers."""

from __future__ import annotations

import pytest

from tests.browser import (  # noqa: F401 - fixtures
    browser,
    page,
)
from tests.e2e.engines import (  # noqa: F401 - fixtures
    engine,
    openai_engine,
    openai_process_engine,
    paced_engine,
    paced_settings,
    simulated_engine,
    tiny_model_path,
    vllm_engine,
    vllm_frontend,
    vllm_process,
    vllm_settings,
)
from tests.e2e.stacks import (  # noqa: F401 - fixtures
    otlp,
    stack,
    vllm_stack,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """vLLM's own imports warn; those warnings are not ours to mend."""
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.filterwarnings("default"))
