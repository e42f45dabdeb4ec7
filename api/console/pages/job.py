"""One job: its attempts in time, its request and result, its stream, and what can be done with it."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request, Response

from api.console.frame import HEADERS, Frame, Page
from api.console.inside import Answer, segment
from api.console.pages import jobs
from api.console.texts import Shown, answer_texts, request_texts
from api.console.visit import Refused, Visit
from jobs.endpoints import CHUNK_ENDPOINT

PATH: Final = f"{jobs.PATH}/{{job_id}}"
SHOWN_BYTES: Final = 48 * 1024
"""Longest request or result that is shown; a longer one is cut, and can be downloaded."""

_RESULTS: Final = ("result", "partial")
_READ_BYTES = 1024 * 1024
"""So much of the job object is read: its facts, which come first and are far shorter, and the beginning of its result."""

_PREFIXES = ("resp_", "chatcmpl-", "cmpl-")


def register(router: APIRouter, frame: Frame) -> None:
    """Add the page, and the way to it by an id."""

    @router.get(f"{jobs.PATH}/find", include_in_schema=False)
    async def find(request: Request) -> Response:
        """Lead to the page of an id, also of one as the OpenAI endpoints give it."""
        ident = request.query_params.get("id", "").strip()
        for prefix in _PREFIXES:
            ident = ident.removeprefix(prefix)
        return Response(None, 303, {**HEADERS, "location": segment(ident) or "../jobs"})

    frame.add(router, Page(PATH, "job.html", "Job", load, within=jobs.PATH))


async def load(visit: Visit) -> dict[str, Any]:
    """Ask for the job, and for its request. The request never changes, so live updates leave it out."""
    path = f"/v1/jobs/{segment(visit.params['job_id'])}"
    answer = await visit.answer("GET", path, most_bytes=_READ_BYTES)
    if answer.status >= 400:
        raise Refused.by(answer)
    job, bodies = read_job(answer)
    ended = job["timings"]["finished_at"] is not None
    batch = job["metadata"]["batch"] if job["endpoint"] == CHUNK_ENDPOINT else None
    request = None if batch or visit.anew else await _request(visit, path)
    others = {job[name] for name in ("retried_as", "retry_of", "coalesced_with")} - {None}
    return {
        "job": job,
        "there": await visit.kept("/v1/jobs", others),
        "retryable": ended
        and job["retried_as"] is None
        and not batch
        and job["store"]
        and job["priority"] in visit.lanes
        and (request is not None or visit.anew),
        "batch": batch,
        "ended": ended,
        "live": not ended,
        "moments": moments(job),
        "phases": phases(job),
        "request": request,
        "result": None if batch else _shown(bodies["result"]),
        "partial": _shown(bodies["partial"]),
        "lanes": [lane for lane in visit.lanes if lane not in {"realtime", job["priority"]}],
    }


def read_job(answer: Answer) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read a job object. Its results stay JSON, because they may be long.

    Args:
        answer: of the API. If it was cut, then within a result.

    Returns:
        The facts, and the results by name. A result that was cut ends where it was cut.
    """
    if answer.whole:
        raw = msgspec.json.decode(answer.body, type=dict[str, msgspec.Raw])
        bodies = {name: bytes(raw.pop(name)) for name in _RESULTS}
        return {name: msgspec.json.decode(value) for name, value in raw.items()}, bodies
    text = answer.body.decode(errors="replace")
    facts: dict[str, Any] = {}
    decoder, at = json.JSONDecoder(), 1
    while True:
        name, at = decoder.raw_decode(text, at)
        at += 1  # the colon
        if name in _RESULTS and not text.startswith("null", at):
            return facts, dict.fromkeys(_RESULTS, b"null") | {name: text[at:].encode()}
        facts[name], at = decoder.raw_decode(text, at)
        at += 1  # the comma


async def _request(visit: Visit, path: str) -> Shown | None:
    answer = await visit.answer("GET", f"{path}/input", most_bytes=SHOWN_BYTES)
    if answer.status >= 400:
        return None
    return _cut(answer.body, request_texts, whole=answer.whole)


def _shown(body: bytes) -> Shown | None:
    if body == b"null":
        return None
    return _cut(body[:SHOWN_BYTES], answer_texts, whole=len(body) <= SHOWN_BYTES)


def _cut(body: bytes, read: Any, *, whole: bool) -> Shown:
    text = body.decode(errors="replace")
    if not whole:
        return Shown(text, (), whole=False)
    try:
        value = json.loads(text)
    except ValueError:
        return Shown(text, (), whole=True)
    return Shown(json.dumps(value, indent=2, ensure_ascii=False), tuple(read(value)), whole=True)


def moments(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what happened to a job, in time: each with ``what``, ``at`` and ``state``."""
    times = job["timings"]
    found = [
        {"what": "Submitted", "at": times["queued_at"], "state": "queued", "note": f"lane {job['priority']}"}
    ]
    found += [
        {
            "what": f"Attempt {one['attempt']} ended: {one['reason']}",
            "at": one["ended_at"],
            "state": "failed",
            "note": one["worker"],
        }
        for one in job["history"]
    ]
    if times["started_at"] is not None:
        what = "Started" if job["attempt"] <= 1 else f"Attempt {job['attempt']} started"
        found.append({"what": what, "at": times["started_at"], "state": "running", "note": job["worker"]})
    if times["first_token_at"] is not None:
        found.append({"what": "First token", "at": times["first_token_at"], "state": "running", "note": None})
    if job["not_before"] is not None:
        found.append({"what": "Next attempt", "at": job["not_before"], "state": "queued", "note": None})
    if times["finished_at"] is not None:
        error = job["error"]
        note = None if error is None else error["code"]
        found.append(
            {
                "what": job["state"].capitalize(),
                "at": times["finished_at"],
                "state": job["state"],
                "note": note,
            }
        )
    return sorted(found, key=lambda one: one["at"])


def phases(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return how long a finished job waited, prepared its first token, and ran on; empty: nothing to show."""
    times = job["timings"]
    start, end = times["started_at"], times["finished_at"]
    if start is None or end is None or end <= times["queued_at"]:
        return []
    first = times["first_token_at"]
    known = [("waiting", times["queued_at"], start)]
    known += (
        [("to the first token", start, first), ("generating", first, end)]
        if first
        else [("running", start, end)]
    )
    return [{"name": name, "seconds": max(0.0, until - since)} for name, since, until in known]
