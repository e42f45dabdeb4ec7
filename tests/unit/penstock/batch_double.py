"""The part of the server's double that speaks Files and Batches: it runs a batch a few rows at every look."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

Row = dict[str, Any]


def answer_row(row: Row, text: str | None = None) -> Row:
    """The output row of a request that succeeded."""
    said = text if text is not None else f"answer to {row['custom_id']}"
    body = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": said}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    }
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {
        "id": f"batch_req_{row['custom_id']}",
        "custom_id": row["custom_id"],
        "response": response,
        "error": None,
    }


def failed_row(row: Row, status: int = 400) -> Row:
    """The row of a request that the engine refused."""
    body = {
        "error": {"message": "no", "type": "invalid_request_error", "param": None, "code": "invalid_request"}
    }
    response = {"status_code": status, "request_id": "r", "body": body}
    return {
        "id": f"batch_req_{row['custom_id']}",
        "custom_id": row["custom_id"],
        "response": response,
        "error": None,
    }


def never_ran(row: Row, code: str = "batch_cancelled") -> Row:
    """The row of a request that was never run."""
    error = {"code": code, "message": "not executed"}
    return {
        "id": f"batch_req_{row['custom_id']}",
        "custom_id": row["custom_id"],
        "response": None,
        "error": error,
    }


def _run(row: Row) -> Row:
    """Fail what asks for it; answer the rest."""
    return failed_row(row) if "FAIL" in json.dumps(row["body"]) else answer_row(row)


@dataclass
class Run:
    """One batch: its object's own fields, the rows that are left, the rows that are done."""

    fields: dict[str, Any]
    left: list[Row]
    total: int
    done: list[Row] = field(default_factory=list)
    status: str = "in_progress"

    @property
    def failed(self) -> int:
        return sum((row["response"] or {}).get("status_code") != 200 for row in self.done)


@dataclass
class BatchDouble:
    """Files and batches in memory.

    Attributes:
        files: content by id; names: what they were called.
        runs: batches by id.
        pace: rows that every look at results or progress completes; 0: none until :meth:`finish`.
        hold: looks complete no more rows than this in all; None: every one.
        run_row: makes the output row of an input row.
        shuffle: deliver the rows that are done at one look in reverse order.
        cuts: for each connection to a file's content, after how many bytes it breaks; None: never.
        ignore_range: answer a range with everything.
        verdict: what ``verify`` answers beside the counts.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    pace: int = 1000
    hold: int | None = None
    run_row: Callable[[Row], Row] = _run
    shuffle: bool = False
    cuts: list[int | None] = field(default_factory=list)
    ignore_range: bool = False
    verdict: dict[str, Any] = field(default_factory=dict)

    def answer(self, request: Request, body: bytes) -> Response | None:
        """Answer a request about files and batches; None for any other."""
        path, method = request.url.path, request.method
        kind, _, rest = path.removeprefix("/v1/").partition("/")
        name, _, action = rest.partition("/")
        if kind == "files":
            return self._file(request, body, name, action)
        if kind != "batches":
            return None
        if not name:
            if method == "GET":
                return JSONResponse(self._page([self.object(one) for one in self.runs], request))
            return self._create(request, json.loads(body))
        if name not in self.runs:
            return JSONResponse({"error": {"code": "batch_not_found", "message": "no such batch"}}, 404)
        return self._batch(request, name, action)

    # ---- files

    def add_file(self, content: bytes, name: str = "f.jsonl") -> str:
        """Keep a file; return its id."""
        file_id = f"file-{len(self.files) + 1:04}"
        self.files[file_id], self.names[file_id] = content, name
        return file_id

    def _file_object(self, file_id: str) -> dict[str, Any]:
        return {
            "id": file_id,
            "object": "file",
            "bytes": len(self.files[file_id]),
            "created_at": 1795416551,
            "filename": self.names[file_id],
            "purpose": "batch",
            "status": "processed",
            "expires_at": None,
        }

    def _file(self, request: Request, body: bytes, name: str, action: str) -> Response:
        if request.method == "POST":
            key = request.headers["idempotency-key"]
            if key not in self.keys:
                found = re.search(
                    rb'name="file"; filename="([^"]*)"\r\n.*?\r\n\r\n(.*)\r\n--', body, re.DOTALL
                )
                assert found is not None
                assert b'name="purpose"\r\n\r\nbatch\r\n' in body
                self.keys[key] = self.add_file(found[2], found[1].decode())
            return JSONResponse(self._file_object(self.keys[key]))
        if not name:
            return JSONResponse(self._page([self._file_object(one) for one in self.files], request))
        if name not in self.files:
            return JSONResponse({"error": {"code": "file_not_found", "message": "no such file"}}, 404)
        if request.method == "DELETE":
            del self.files[name]
            return JSONResponse({"id": name, "object": "file", "deleted": True})
        return self._content(request, name) if action == "content" else JSONResponse(self._file_object(name))

    def _content(self, request: Request, name: str) -> Response:
        content = self.files[name]
        asked = request.headers.get("range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and not self.ignore_range else 0
        status, headers = 200, {"content-length": str(len(content) - start)}
        if start:
            if start >= len(content):
                return Response(status_code=416, headers={"content-range": f"bytes */{len(content)}"})
            status = 206
            headers["content-range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.cuts.pop(0) if self.cuts else None

        async def pieces() -> AsyncIterator[bytes]:
            end = len(content) if cut is None else min(start + cut, len(content))
            for at in range(start, end, 7):
                yield content[at : min(at + 7, end)]
            if end < len(content):
                raise ConnectionResetError

        return StreamingResponse(pieces(), status, headers, media_type="application/jsonl")

    # ---- batches

    def add_batch(self, rows: list[Row], **fields: Any) -> str:
        """Begin a batch; return its id."""
        batch_id = f"batch_{len(self.runs) + 1:04}"
        own = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": None} | fields
        self.runs[batch_id] = Run(own, list(rows), len(rows))
        return batch_id

    def step(self, batch_id: str, rows: int | None = None) -> None:
        """Run some rows of a batch."""
        run = self.runs[batch_id]
        if run.status != "in_progress" or run.fields.get("paused"):
            return
        pace = self.pace if rows is None else rows
        if rows is None and self.hold is not None:
            pace = min(pace, max(0, self.hold - len(run.done)))
        now, run.left = run.left[:pace], run.left[pace:]
        done = [self.run_row(row) for row in now]
        run.done += reversed(done) if self.shuffle else done
        if not run.left:
            run.status = "completed"

    def end(self, batch_id: str, status: str) -> None:
        """End a batch before its time: what is left was never run."""
        run = self.runs[batch_id]
        run.done += [never_ran(row, f"batch_{status}") for row in run.left]
        run.left, run.status = [], status

    def object(self, batch_id: str) -> dict[str, Any]:
        """The batch object."""
        run = self.runs[batch_id]
        counts = {"total": run.total, "completed": len(run.done) - run.failed, "failed": run.failed}
        return {
            "id": batch_id,
            "object": "batch",
            "status": run.status,
            "errors": None,
            "input_file_id": None,
            "output_file_id": None,
            "error_file_id": None,
            "request_counts": counts,
            "created_at": 1795416551,
            "paused": False,
            "pause_reason": None,
            "priority": "bulk",
            "retry_of": None,
            "retried_as": None,
            "usage": self._usage(run),
            "progress": {"rows_per_s": 12.5, "tokens_per_s": 100.0, "eta_s": 3.0},
            "a_field_of_the_future": 1,
        } | run.fields

    def _usage(self, run: Run) -> dict[str, int]:
        n = len(run.done) - run.failed
        return {"input_tokens": 3 * n, "output_tokens": 5 * n, "total_tokens": 8 * n}

    def _create(self, request: Request, asked: dict[str, Any]) -> Response:
        key = request.headers["idempotency-key"]
        if key not in self.keys:
            content = self.files.get(asked["input_file_id"])
            if content is None:
                missing = {"message": "no such file", "param": "input_file_id", "code": "file_not_found"}
                return JSONResponse({"error": missing}, 400)
            rows = [json.loads(line) for line in content.split(b"\n") if line.strip()]
            self.keys[key] = self.add_batch(rows, **asked)
        return JSONResponse(self.object(self.keys[key]))

    def _batch(self, request: Request, name: str, action: str) -> Response:
        run = self.runs[name]
        if request.method == "GET":
            if action == "verify":
                counts = self.object(name)["request_counts"]
                found = {"object": "batch.verification", "ok": True, **counts, "duplicates": 0, "missing": 0}
                return JSONResponse(found | self.verdict)
            if action == "events":
                return StreamingResponse(self._events(name), media_type="text/event-stream")
            self.step(name)
            return self._results(request, run) if action == "results" else JSONResponse(self.object(name))
        if action == "retry":
            child = self.add_batch([{"custom_id": f"again-{name}", "body": {}}], retry_of=name)
            run.fields["retried_as"] = child
            return JSONResponse(self.object(child))
        if action == "cancel":
            self.end(name, "cancelled")
        else:
            run.fields["paused"] = action == "pause"
        return JSONResponse(self.object(name))

    def _results(self, request: Request, run: Run) -> Response:
        start = int(request.query_params.get("after") or 0)
        rows = run.done[start : start + int(request.query_params.get("limit") or 1000)]
        end = start + len(rows)
        over = run.status not in {"in_progress", "validating"} and end == len(run.done)
        headers = {"x-incomplete": "false" if over else "true"}
        if end:
            headers["x-next-cursor"] = str(end)
        content = "".join(json.dumps(row) + "\n" for row in rows)
        return Response(content, headers=headers, media_type="application/jsonl")

    async def _events(self, name: str) -> AsyncIterator[bytes]:
        cut = self.cuts.pop(0) if self.cuts else None
        sent = 0
        while True:
            if cut is not None and sent == cut:
                return
            self.step(name)
            now = self.object(name)
            data = {key: now[key] for key in ("status", "request_counts", "paused", "pause_reason", "usage")}
            data |= now["progress"]
            kind = "progress" if now["status"] == "in_progress" else now["status"]
            yield f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()
            sent += 1
            if kind != "progress":
                return

    def _page(self, items: list[dict[str, Any]], request: Request) -> dict[str, Any]:
        ids = [item["id"] for item in items]
        after = request.query_params.get("after")
        first = ids.index(after) + 1 if after else 0
        end = first + int(request.query_params["limit"])
        data = items[first:end]
        return {
            "object": "list",
            "data": data,
            "has_more": end < len(items),
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
        }
