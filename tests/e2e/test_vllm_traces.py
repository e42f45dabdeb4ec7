"""vLLM's own spans in the trace of the job that it ran; its log lines in our form."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from monitoring.trace_context import TraceContext
from tests.e2e.stacks import Stack
from tests.otlp import OtlpReceiver, SpanSeen
from tests.support import wait_until

pytestmark = pytest.mark.xdist_group("vllm")


@pytest.mark.parametrize("stream", [False, True])
def test_vllms_span_is_below_ours(vllm_stack: Stack, otlp: OtlpReceiver, stream: bool) -> None:
    caller = TraceContext.new(sampled=True)
    body = {
        "model": "tiny-random",
        "messages": [{"role": "user", "content": "XYZZY-do-not-tell"}],
        "max_tokens": 8,
        "stream": stream,
    }
    done = httpx.post(
        f"{vllm_stack.url}/v1/chat/completions",
        json=body,
        headers={"traceparent": caller.parent},
        timeout=60,
    )
    assert done.status_code == 200, done.text

    def span(name: str) -> SpanSeen | None:
        return next((one for one in otlp.trace(caller.trace_id) if one.name == name), None)

    theirs = wait_until(lambda: span("llm_request"))
    ours = wait_until(lambda: span("chat tiny-random"))
    assert (theirs.parent_id, theirs.service) == (ours.span_id, "vllm")
    assert (
        theirs.attributes["gen_ai.usage.completion_tokens"] == ours.attributes["gen_ai.usage.output_tokens"]
    )
    assert ours.start_ns <= theirs.start_ns


def test_what_is_not_to_be_recorded_is_not_by_vllm_either(vllm_stack: Stack, otlp: OtlpReceiver) -> None:
    quiet, loud = TraceContext.new(sampled=False), TraceContext.new(sampled=True)
    body = {"model": "tiny-random", "prompt": "one", "max_tokens": 4}
    for caller in (quiet, loud):
        url = f"{vllm_stack.url}/v1/completions"
        done = httpx.post(url, json=body, headers={"traceparent": caller.parent}, timeout=60)
        assert done.status_code == 200, done.text
    wait_until(lambda: any(one.name == "llm_request" for one in otlp.trace(loud.trace_id)))
    assert otlp.trace(quiet.trace_id) == []
    assert not any(b"XYZZY" in sent for sent in otlp.bodies)


def test_every_line_is_json_and_holds_no_prompt(vllm_stack: Stack) -> None:
    logs: list[Path] = [
        path for path in (vllm_stack.data_dir / "logs").glob("*.log") if path.stem != "valkey"
    ]
    lines = [line for path in logs for line in path.read_text().splitlines()]
    assert not any("XYZZY" in line for line in lines)
    read = [json.loads(line) for line in lines if line.startswith("{")]
    assert {"api", "worker"} <= {line["service"] for line in read}
    assert any(line["logger"].startswith("vllm.") for line in read)
