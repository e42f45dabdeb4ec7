"""One batch over HTTP: upload, run to its end, verify."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any


def call(url: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
    """Make a request, and read its JSON."""
    request = urllib.request.Request(url + path, body, {"content-type": kind})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def upload(url: str, data: Path) -> str:
    """Upload a file with curl, which streams it; return its id."""
    command = ["curl", "-sS", "-F", "purpose=batch", "-F", f"file=@{data}", f"{url}/v1/files"]
    return str(json.loads(subprocess.check_output(command))["id"])


def run_batch(url: str, data: Path, watch: Any = None) -> dict[str, Any]:
    """Run a batch to its end; return it with its seconds, from its creation."""
    file = upload(url, data)
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    began = time.perf_counter()
    batch = call(url, "/v1/batches", json.dumps(asked).encode())
    while batch["status"] not in {"completed", "failed", "expired", "cancelled"}:
        time.sleep(0.05 if watch is None else 1.0)
        batch = call(url, f"/v1/batches/{batch['id']}")
        if watch is not None:
            watch(batch)
    seconds = time.perf_counter() - began
    if batch["status"] != "completed" or batch["request_counts"]["failed"]:
        raise RuntimeError(f"the batch ended badly: {batch}")
    proof = call(url, f"/v1/batches/{batch['id']}/verify")
    if not proof["ok"]:
        raise RuntimeError(f"the batch does not verify: {proof}")
    return {"seconds": seconds, "batch": batch}
