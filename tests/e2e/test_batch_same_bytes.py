"""The order of a batch's rows, and sharing the runs of identical ones, change no byte of what vLLM answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from penstock import Penstock
from tests.e2e.engines import QUICK_ENV, QUICK_FLAGS
from tests.e2e.stacks import Stack, start_stack, stop_stack

pytestmark = [pytest.mark.xdist_group("vllm"), pytest.mark.full]

ROWS = 150


def requests() -> bytes:
    """Return rows with five long system prompts in turn; about half of them are the same as an earlier one."""
    rows: list[dict[str, Any]] = []
    for n in range(ROWS):
        system = f"You are assistant number {n % 5}. " + f"Rule {n % 5}: be kind. " * 12
        messages = [{"role": "system", "content": system}, {"role": "user", "content": f"Say {n * n % 70}"}]
        body = {"model": "tiny-random", "messages": messages, "max_tokens": 12, "temperature": 0}
        if n % 25 == 24:
            body["max_tokens"] = -1
        rows.append({"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": body})
    return b"".join(json.dumps(one).encode() + b"\n" for one in rows)


def output(stack: Stack, folder: Path) -> list[bytes]:
    """Run the batch; return its lines as they are, without what is new in every batch or engine, ordered by their rows."""
    path = folder / "in.jsonl"
    path.write_bytes(requests())
    with Penstock(stack.url) as client:
        file = client.files.upload(path)
        batch = client.batches.wait(client.batches.create(file.id, completion_window="1h").id)
        data = b"".join(
            piece
            for one in (batch.output_file_id, batch.error_file_id)
            if one is not None
            for piece in client.files.content(one)
        )
    same = re.sub(rb'"(created":|system_fingerprint":"vllm-[0-9.]+-)\w+', rb"\1", data)
    same = same.replace(batch.id.removeprefix("batch_").encode(), b"")
    return sorted(same.splitlines(), key=lambda line: line.split(b'"custom_id":')[1])


def test_order_and_sharing_change_no_byte_on_vllm(vllm_stack: Stack, tmp_path: Path) -> None:
    with_both = output(vllm_stack, tmp_path)
    flags = ("--no-flower", *(f"--engine-arg={flag}" for flag in QUICK_FLAGS))
    off = {"PENSTOCK_BATCH_PREFIX_ORDER": "false", "PENSTOCK_BATCH_ANSWER_IDENTICAL_ONCE": "false"}
    other = start_stack(tmp_path, *flags, **QUICK_ENV, **off)  # type: ignore[arg-type]  # none of them is timeout_s
    try:
        with_none = output(other, tmp_path)
    finally:
        stop_stack(other)
    assert len(with_both) == ROWS
    assert sum(b'"status_code":200' in line for line in with_both) == ROWS - 6
    assert with_both == with_none
