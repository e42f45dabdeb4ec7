"""`penstock up --model DIR` with a model directory as transformers writes it, on a CPU whose memory is partly taken."""

from __future__ import annotations

import mmap
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.engines import QUICK_ENV, QUICK_FLAGS
from tests.e2e.stacks import start_stack, stop_stack

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("vllm")]

CONTEXT = 1 << 20
"""Far more tokens than the memory for them that the test grants."""


@pytest.fixture(scope="module")
def model_path(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """140 million random weights in bfloat16: 290 MB."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=12,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=2,
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model_path / name, path)
    return path


@pytest.fixture
def less_memory() -> Iterator[None]:
    """Take so much memory that less than 90 % is free."""
    memory = psutil.virtual_memory()
    taken = max(memory.available - int(0.9 * memory.total), mmap.PAGESIZE)
    with mmap.mmap(-1, taken) as block:
        for at in range(0, taken, mmap.PAGESIZE):
            block[at] = 1
        yield


@pytest.mark.usefixtures("less_memory")
def test_a_model_directory_starts_where_most_but_not_all_memory_is_free(
    model_path: Path, tmp_path: Path
) -> None:
    flags = (f"--engine-arg={flag}" for flag in (*QUICK_FLAGS, "--enforce-eager"))
    env = {**QUICK_ENV, "PENSTOCK_CPU_MEMORY_SHARE": "0.1", "VLLM_LOGGING_LEVEL": "INFO"}
    stack = start_stack(tmp_path, "--no-flower", f"--model={model_path}", *flags, **env)  # type: ignore[arg-type]
    try:
        (card,) = httpx.get(f"{stack.url}/v1/models").json()["data"]
        assert card["id"] == str(model_path)
        body = {"model": card["id"], "prompt": "The river", "max_tokens": 8, "ignore_eos": True}
        answer = httpx.post(f"{stack.url}/v1/completions", json=body, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] == 8
        log = (stack.data_dir / "logs" / "worker.log").read_text()
        (size,) = re.findall(r"kv_cache_sized.* kv_cache='([\d.]+) GiB'", log)
        assert 0.2 <= float(size) < 0.06 * psutil.virtual_memory().total / 2**30
        # The context became what fits: a request beyond it is refused, not waited for.
        (fits,) = re.findall(r"Auto-fit max_model_len: reduced from 1048576 to (\d+)", log)
        assert 1000 < int(fits) < CONTEXT
        beyond = httpx.post(
            f"{stack.url}/v1/completions", json=body | {"max_tokens": int(fits) + 1}, timeout=60
        )
        assert beyond.status_code == 400
    finally:
        stop_stack(stack)
