"""The one checker: what the clients were told, what the records say and what the engine ran, compared.

It runs when the stack is healed and quiet. Each broken promise becomes one violation, with the job's id.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from tests.chaos.children import Life
from tests.chaos.ledger import TERMINAL, Ledger, Submission
from tests.chaos.stack import Stack
from tests.support import eventually

_MARKER = re.compile(r"chaos-[\w.-]+")
_NEVER_ACCEPTED = frozenset({"no_worker", "queue_full"})
_HONEST_FAILURES = frozenset({"worker_lost", "engine_unavailable", "poisoned"})
_SUBMITS = frozenset({"poll", "follow", "cancel"})
_FINAL_FIELDS = ("state", "finished", "result", "status", "error", "attempt", "usage")
_OBSERVE_S = 0.25


class Observer:
    """Looks at every record as soon as it is terminal, and again at the end: nothing may have changed."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        with stack.admin() as client:
            seconds, micros = client.time()
        self.since_ms = seconds * 1000 + micros // 1000
        self.journal_start = stack.journal.stat().st_size if stack.journal.exists() else 0
        self._seen: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._look(), name="observer")

    async def stop(self) -> dict[str, str]:
        """Look no more; return what was seen, job to digest."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        return self._seen

    async def _look(self) -> None:
        while True:
            with suppress(RedisError, OSError):  # away: that is what is being tested
                self._seen |= await asyncio.to_thread(self._fresh)
            await asyncio.sleep(_OBSERVE_S)

    def _fresh(self) -> dict[str, str]:
        keys, found = self._stack.keys, {}
        with self._stack.admin() as client:
            for state in TERMINAL:
                ids = client.zrangebyscore(keys("ended", state), self.since_ms, "+inf")
                for job_id in ids:
                    if job_id not in self._seen:
                        found[job_id] = digest(client.hgetall(keys("job", job_id)))
        return found


def digest(record: dict[str, str]) -> str:
    """Return a terminal record's fingerprint."""
    facts = [record.get(name) for name in _FINAL_FIELDS]
    return f"{record.get('state')} {hashlib.sha256(json.dumps(facts).encode()).hexdigest()}"


@dataclass(frozen=True)
class Run:
    """One run of the journal."""

    job: str
    attempt: int
    pid: int
    started: float
    ended: float | None


@dataclass(frozen=True)
class Takeover:
    """A job's way from a worker that was lost to its next start.

    Attributes:
        seconds: from the loss to the start.
        disturbed: Redis was away meanwhile, or no other worker was there and well.
    """

    seconds: float
    disturbed: bool


async def quiet(stack: Stack, timeout_s: float = 60.0) -> bool:
    """Wait until no job is queued or running. Returns whether that came to pass."""

    def idle() -> bool:
        with stack.admin() as client:
            pipe = client.pipeline(transaction=False)
            for job_id in client.zrange(stack.keys("jobs"), 0, -1):
                pipe.hmget(
                    stack.keys("job", job_id), "state", "finished"
                )  # a test of the checker breaks records
            return not any(
                state in {"queued", "running"} and not finished for state, finished in pipe.execute()
            )

    try:
        await eventually(idle, timeout_s)
    except AssertionError:
        return False
    return True


class Checker:
    """Checks one round.

    Args:
        stack: healed and quiet.
        ledger: what the clients saw; violations and figures go there too.
        observer: started before the first submission, and stopped.
    """

    def __init__(self, stack: Stack, ledger: Ledger, observer: Observer) -> None:
        self._stack = stack
        self._ledger = ledger
        self._observer = observer
        self._lives = {life.pid: life for life in stack.lives}
        with stack.admin(30.0) as client:
            ids = client.zrangebyscore(stack.keys("jobs"), observer.since_ms, "+inf")
            self.records = {job: client.hgetall(stack.keys("job", job)) for job in ids}
        self.runs = self._read_journal()
        self._ran = {run.job for run in self.runs}
        self.takeovers: list[Takeover] = []

    def check(self, seen: dict[str, str]) -> None:
        """Check everything."""
        self._accepted()
        self._records(seen)
        self._submissions()
        self._history()
        self._journal()
        self._lives_and_leftovers()
        counts = self._ledger.counts
        counts["jobs"] += len(self.records)
        if self._stack.engine == "simulated":
            counts["engine_runs"] += len(self.runs)
        else:  # it keeps no journal: what was claimed counts as run
            counts["engine_runs"] += sum(int(record.get("attempt", 0)) for record in self.records.values())
            self._takeovers_told_by_records()
        for record in self.records.values():
            counts[f"state.{record.get('state')}"] += 1

    def _break(self, invariant: str, **facts: Any) -> None:
        job = facts.get("job")
        if job in self.records:
            facts["record"] = {k: v[:300] for k, v in self.records[job].items() if k not in {"req", "result"}}
        self._ledger.break_(invariant, **facts)

    def _accepted(self) -> None:
        """Every accepted job is there and over, in the state that its client was told."""
        for sub in self._ledger.submissions.values():
            for job in sub.ids:
                state = self.records.get(job, {}).get("state")
                if state not in TERMINAL:
                    self._ledger.counts["lost"] += 1
                    self._break("every accepted job ends", job=job, state=state, kind=sub.kind)
                for told in sub.seen.get(job, set()):
                    if told != state:
                        self._break("terminal states never change", job=job, told=told, state=state)

    def _records(self, seen: dict[str, str]) -> None:
        for job, record in self.records.items():
            if record.get("state") not in TERMINAL:
                self._break("every job ends", job=job)
            if job in seen and seen[job] != digest(record):
                self._break("terminal states never change", job=job, seen=seen[job], now=digest(record))
            if record.get("state") == "failed":
                code = json.loads(record.get("error", "{}")).get("code")
                self._ledger.counts[f"failed.{code}"] += 1
                if code not in _HONEST_FAILURES:
                    self._break("faults fail no job but for what they did to it", job=job, code=code)

    def _submissions(self) -> None:
        """One submission, one job; a refused one, none that ran."""
        by_marker: dict[str, list[str]] = defaultdict(list)
        for job, record in self.records.items():
            found = _MARKER.search(record.get("req", ""))
            by_marker[found[0] if found else "?"].append(job)
        for marker, sub in self._ledger.submissions.items():
            jobs = by_marker.pop(marker, [])
            if len(jobs) > 1:
                self._ledger.counts["doubled"] += 1
                self._break("one submission, one job", marker=marker, jobs=jobs, kind=sub.kind)
            self._refused(sub, jobs)
        for marker, jobs in by_marker.items():
            self._break("no job comes from nowhere", marker=marker, jobs=jobs)

    def _refused(self, sub: Submission, jobs: list[str]) -> None:
        counts = self._ledger.counts
        counts["submits_5xx"] += bool(sub.refusals)
        if sub.accepted or not jobs:
            return
        if all(one.status == 0 or one.code in _NEVER_ACCEPTED for one in sub.tries):
            self._break("a refused submission leaves no job", jobs=jobs, tries=repr(sub.tries))
        if sub.refusals and sub.key is None:
            counts["submits_5xx_left_a_record"] += 1
            ran = [job for job in jobs if job in self._ran]
            counts["submits_5xx_ran"] += len(ran)
            for job in ran if sub.kind in _SUBMITS else []:
                self._break("a submission answered 5xx never ran", job=job, tries=repr(sub.tries))

    def _history(self) -> None:
        """Attempts are counted one by one, and nobody loses one who did nothing wrong."""
        for job, record in self.records.items():
            attempt, history = int(record.get("attempt", 0)), json.loads(record.get("hist", "[]"))
            numbers = [entry["attempt"] for entry in history]
            if numbers != sorted(set(numbers)) or attempt - len(history) not in {0, 1}:
                self._break("attempts are counted one by one", job=job, attempt=attempt, history=numbers)
            for entry in history:
                self._ledger.counts[f"given_up.{entry['reason']}"] += 1
                if not self._had_reason(entry):
                    self._break("no attempt is taken from a worker that is well", job=job, entry=entry)

    def _had_reason(self, entry: dict[str, Any]) -> bool:
        life = self._lives.get(_pid(entry["worker"]))
        at = entry["ended_ms"] / 1000
        if life is None:
            return False
        if entry["reason"] == "released":
            return bool({"terminated", "engine", "failpoint"} & set(life.fates))
        if entry["reason"] == "worker_lost" and self._redis_was_away(at):
            return True
        return bool(set(life.fates) - {"paused"}) or bool(life.status)

    def _redis_was_away(self, at: float) -> bool:
        patience = 2 * self._stack.lease_ttl_s + 5
        return any(begin <= at <= end + patience for begin, end in self._stack.redis_faults)

    def _read_journal(self) -> list[Run]:
        if not self._stack.journal.exists():
            return []
        with self._stack.journal.open("rb") as journal:
            journal.seek(self._observer.journal_start)
            lines = [json.loads(line) for line in journal.read().splitlines()]
        ends: dict[tuple[str, int, int], float] = {}
        for line in lines:
            if line["event"] != "start":
                ends[line["job"], line["attempt"], line["pid"]] = line["time_ms"] / 1000
        return [
            Run(
                line["job"],
                line["attempt"],
                line["pid"],
                line["time_ms"] / 1000,
                ends.get((line["job"], line["attempt"], line["pid"])),
            )
            for line in lines
            if line["event"] == "start"
        ]

    def _journal(self) -> None:
        """Each attempt ran at most once, one after the other, never two at once on workers that were well."""
        by_job: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            by_job[run.job].append(run)
        for job, runs in by_job.items():
            record = self.records.get(job)
            if record is None:
                self._break("what ran has a record", job=job)
                continue
            attempts = [run.attempt for run in runs]
            if len(set(attempts)) != len(attempts):
                self._ledger.counts["doubled"] += 1
                self._break("each attempt runs at most once", job=job, attempts=attempts)
            if max(attempts) > int(record.get("attempt", 0)):
                self._break("each attempt was claimed", job=job, attempts=attempts)
            for before, after in itertools.pairwise(runs):
                self._one_after_the_other(before, after)
            self._takeovers(runs)

    def _one_after_the_other(self, before: Run, after: Run) -> None:
        first, second = sorted((before, after), key=lambda run: run.attempt)
        lost = self._lost_at(first)
        if second is before and lost is None:
            self._break(
                "attempts run in their order", job=first.job, attempts=[before.attempt, after.attempt]
            )
        over = first.ended is not None and first.ended <= second.started
        if not over and not (lost and lost <= second.started) and not self._redis_was_away(second.started):
            runs = [str(before), str(after)]
            self._break("no two workers that are well run the same job at once", job=first.job, runs=runs)

    def _lost_at(self, run: Run) -> float | None:
        life = self._lives.get(run.pid)
        return None if life is None else life.lost_since

    def _takeovers(self, runs: list[Run]) -> None:
        for before, after in itertools.pairwise(runs):
            lost = self._lost_at(before)
            if lost is None or not before.started <= lost <= after.started:
                continue
            if before.ended is None or before.ended >= lost:
                disturbed = self._disturbed(before.pid, lost, after.started)
                self.takeovers.append(Takeover(after.started - lost, disturbed))

    def _takeovers_told_by_records(self) -> None:
        """Of each job the last takeover, where there is no journal: records keep the last start alone."""
        for record in self.records.values():
            history = json.loads(record.get("hist", "[]"))
            if not history or history[-1]["reason"] != "worker_lost" or "started" not in record:
                continue
            pid, started = _pid(history[-1]["worker"]), int(record["started"]) / 1000
            life = self._lives.get(pid)
            if life is not None and life.lost_since is not None and life.lost_since <= started:
                disturbed = self._disturbed(pid, life.lost_since, started)
                self.takeovers.append(Takeover(started - life.lost_since, disturbed))

    def _disturbed(self, pid: int, lost: float, started: float) -> bool:
        before = lost - self._stack.lease_ttl_s
        if any(begin <= started and end >= before for begin, end in self._stack.redis_faults):
            return True

        def well(life: Life) -> bool:
            hurt = min([*life.fates.values(), life.ended or started + 1])
            return life.pid != pid and life.ready is not None and life.ready < lost and hurt > started

        return not any(well(life) for life in self._lives.values())

    def _lives_and_leftovers(self) -> None:
        for life in self._lives.values():
            if not life.explained and not life.last_words.startswith("told: "):
                self._break("no process ends by itself", life=_told(life))
                life.last_words = "told: " + life.last_words
        keys = self._stack.keys
        with self._stack.admin() as client:
            for worker in client.zrange(keys("leases"), 0, -1):
                left = (
                    client.smembers(keys("worker_jobs", worker)),
                    client.hgetall(keys("worker_orders", worker)),
                )
                if any(left):
                    self._break(
                        "a quiet worker holds no job", worker=worker, jobs=sorted(left[0]), orders=left[1]
                    )


def _pid(worker: str) -> int:
    """Return the process of a worker's incarnation, ``<name>@<host>-<pid>-<random>``."""
    return int(worker.split("-")[-2])


def _told(life: Life) -> dict[str, Any]:
    return {
        "name": life.name,
        "pid": life.pid,
        "status": life.status,
        "fates": life.fates,
        "last_words": life.last_words,
    }
