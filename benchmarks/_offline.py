"""vLLM without a server, timed in a process of its own with the engine up and warm: ``LLM.chat`` and ``run_batch``."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _stack import ROOT

_ENV = {
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "PYTHONPATH": str(ROOT),
}


def generate_s(bodies: list[dict[str, Any]], llm: dict[str, Any], warm: Sequence[dict[str, Any]]) -> float:
    """Return the seconds that ``LLM.chat`` takes for chat requests, each to its full ``max_tokens``.

    Args:
        bodies: the requests.
        llm: the arguments of ``vllm.LLM``.
        warm: requests that are run before.
    """
    return _timed("generate", {"bodies": bodies, "llm": llm | {"disable_log_stats": True}, "warm": warm})


def run_batch_s(data: Path, flags: Sequence[str], warm: Path) -> float:
    """Return the seconds that vLLM's ``run_batch`` takes for a file.

    Args:
        data: the batch's input; the output is written beside it.
        flags: vLLM's.
        warm: an input that is run before.
    """
    return _timed("run_batch", {"data": str(data), "flags": flags, "warm": str(warm)})


def _timed(what: str, job: dict[str, Any]) -> float:
    done = subprocess.run(
        [sys.executable, __file__, what],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | _ENV,
    )
    if done.returncode:
        raise RuntimeError(f"{what} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    (answer,) = (
        line for line in done.stdout.splitlines() if line.startswith('{"seconds"')
    )  # vLLM prints, too
    return float(json.loads(answer)["seconds"])


def _tell(began: float) -> None:
    print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


def _generate(job: dict[str, Any]) -> None:
    from vllm import LLM, SamplingParams

    llm = LLM(**job["llm"])
    for bodies in (job["warm"], job["bodies"]):
        params = [
            SamplingParams(temperature=0.0, max_tokens=b["max_tokens"], ignore_eos=True) for b in bodies
        ]
        began = time.perf_counter()
        llm.chat([b["messages"] for b in bodies], params, use_tqdm=False)
    _tell(began)


def _run_batch(job: dict[str, Any]) -> None:
    try:
        from vllm.entrypoints.launchers import run_batch as own
    except ImportError:  # older than vLLM 0.32
        from vllm.entrypoints.openai import run_batch as own

    sys.argv[1:] = [*job["flags"], "-i", job["data"], "-o", f"{job['data']}.out"]
    args, run = own.parse_args(), own.run_batch

    async def timed(client: Any, args: Any) -> None:
        for given in (job["warm"], job["data"]):
            args.input_file, began = given, time.perf_counter()
            await run(client, args)
        _tell(began)

    own.run_batch = timed
    asyncio.run(own.main(args))


if __name__ == "__main__":
    {"generate": _generate, "run_batch": _run_batch}[sys.argv[1]](json.load(sys.stdin))
