"""The ids that vLLM gives its own requests for a job of ours."""

from __future__ import annotations

from collections.abc import Iterable

from jobs.endpoints import CHAT, COMPLETIONS

TAPPED: dict[str, str] = {CHAT: "chatcmpl-{}", COMPLETIONS: "cmpl-{}-0"}
"""For each endpoint with compact streams, the form of the id that vLLM gives its request, from the job's id."""

_SEVERAL = ("cmpl-{}-", "resp_{}_", "transcribe-{}", "translate-{}")
"""How the ids of several requests for one job begin: a completion has one for each prompt, a response one for each turn of
its tools. Messages are chats for vLLM."""


def of_job(job: str, known: Iterable[str]) -> list[str]:
    """Return those of vLLM's requests that belong to a job."""
    chat, several = TAPPED[CHAT].format(job), tuple(one.format(job) for one in _SEVERAL)
    return [one for one in known if one == chat or one.startswith(several)]
