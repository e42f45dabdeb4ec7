"""What the clients know: each submission with all that was answered to it. The checker compares it with the records."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

TERMINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True)
class Try:
    """One HTTP request that submits.

    Attributes:
        api: the process it went to.
        at: Unix seconds.
        status: the answer's; None: none came. 0: the connection was refused, so that nothing was sent.
        code: of an error.
    """

    api: str
    at: float
    status: int | None
    code: str | None = None


@dataclass
class Submission:
    """One piece of work that a client wants done once.

    Attributes:
        marker: stands in the prompt, and so in the record.
        kind: which client behaviour.
        text: what the engine must answer; None where that cannot be known.
        key: idempotency key.
        tries: every request.
        ids: the jobs that the answers named.
        seen: terminal states that were answered, by job.
    """

    marker: str
    kind: str
    text: str | None = None
    key: str | None = None
    tries: list[Try] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    seen: dict[str, set[str]] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Whether some answer said so."""
        return bool(self.ids)

    @property
    def answered(self) -> bool:
        """Whether the client was told an end of it: a terminal state, or the whole answer."""
        return bool(self.seen) or any(one.status == 200 for one in self.tries)

    @property
    def refusals(self) -> list[str]:
        """Codes of the 5xx and 429 answers that named no job."""
        return [
            one.code or "" for one in self.tries if one.status and (one.status >= 500 or one.status == 429)
        ]


class Ledger:
    """Everything that the clients of one round saw.

    Attributes:
        submissions: by marker.
        violations: what must never be seen, with what is needed to look into it.
        counts: figures for the summary.
    """

    def __init__(self) -> None:
        self.submissions: dict[str, Submission] = {}
        self.violations: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()

    @property
    def answered(self) -> int:
        """How many submissions have come to an end that a client was told."""
        return sum(submission.answered for submission in self.submissions.values())

    def open(self, submission: Submission) -> Submission:
        """Enter a new submission."""
        self.submissions[submission.marker] = submission
        self.counts[f"kind.{submission.kind}"] += 1
        return submission

    def break_(self, invariant: str, **facts: Any) -> None:
        """Note that an invariant was broken."""
        self.violations.append({"invariant": invariant, "time": time.time(), **facts})

    def see(self, submission: Submission, job_id: str, state: str) -> None:
        """Note a state that a client was told; one terminal state must not follow another."""
        if state not in TERMINAL:
            if submission.seen.get(job_id):
                self.break_(
                    "terminal states never change", job=job_id, seen=submission.seen[job_id], then=state
                )
            return
        known = submission.seen.setdefault(job_id, set())
        known.add(state)
        if len(known) > 1:
            self.break_("terminal states never change", job=job_id, seen=sorted(known))
