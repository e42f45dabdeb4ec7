"""What `LLM.generate` gives for requests read from standard input; run as a process of its own.

Input: ``{"model": path, "requests": [{"kind": "chat"|"completion", "prompt": str, "max_tokens": int}, ...]}``.
The last line of the output: a JSON list of ``{"text", "tokens"}``.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    from vllm import LLM, SamplingParams

    job = json.load(sys.stdin)
    llm = LLM(
        model=job["model"],
        dtype="float32",
        enforce_eager=True,
        kv_cache_memory_bytes=256 << 20,
        disable_log_stats=True,
    )
    answers: dict[int, dict[str, object]] = {}
    for kind, run in (
        ("chat", lambda p, s: llm.chat([[{"role": "user", "content": t}] for t in p], s, use_tqdm=False)),
        ("completion", lambda p, s: llm.generate(p, s, use_tqdm=False)),
    ):
        chosen = [(i, r) for i, r in enumerate(job["requests"]) if r["kind"] == kind]
        params = [SamplingParams(temperature=0.0, max_tokens=r["max_tokens"]) for _, r in chosen]
        for (i, _), output in zip(chosen, run([r["prompt"] for _, r in chosen], params), strict=True):
            answers[i] = {"text": output.outputs[0].text, "tokens": list(output.outputs[0].token_ids)}
    print(json.dumps([answers[i] for i in range(len(answers))]))


if __name__ == "__main__":
    main()
