"""What every client of the load does: makes work, sends it, writes down the answers, and asks until it is told."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import time
from typing import Any

import httpx

from tests.chaos.ledger import TERMINAL, Ledger, Submission, Try
from tests.chaos.stack import Stack
from tests.chaos.streams import EventReader, text_of
from workers.engines.settings import SimulatedSettings
from workers.engines.simulated.voice import Voice

RETRY_S = 0.2
MODELS = {"simulated": "simulated", "vllm": "tiny-random"}

_voice = Voice(SimulatedSettings())


class Clients:
    """See :class:`tests.chaos.load.Load`."""

    def __init__(
        self, stack: Stack, ledger: Ledger, seed: str, *, tokens: tuple[int, int], long_tokens: int
    ) -> None:
        self.stack = stack
        self.ledger = ledger
        self._name = re.sub(r"\W+", "-", seed)
        self._tokens = tokens
        self._long = long_tokens
        self._number = itertools.count(1)
        self._give_up_at = float("inf")
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(20.0, connect=5.0), limits=httpx.Limits(max_connections=400)
        )

    def _new(
        self, kind: str, rng: random.Random, *, long: bool | None = None, stream: bool = False
    ) -> tuple[Submission, bytes]:
        marker = f"chaos-{self._name}-{next(self._number)}"
        tokens = (
            self._long if (rng.random() < 0.125 if long is None else long) else rng.randint(*self._tokens)
        )
        model = MODELS[self.stack.engine]
        messages = json.dumps([{"role": "user", "content": f"{marker} says: what next?"}])
        text = "".join(_voice.words(messages.encode(), tokens)) if model == "simulated" else None
        sub = self.ledger.open(Submission(marker, kind, text))
        more = ', "stream": true' if stream else ""
        if text is None:
            more += ', "ignore_eos": true'  # the model would end most long answers early
        return sub, f'{{"model": "{model}", "messages": {messages}, "max_tokens": {tokens}{more}}}'.encode()

    @staticmethod
    def _job(body: bytes, *, stream: bool) -> bytes:
        return b'{"input": %b, "stream": %b, "max_attempts": 10}' % (body, b"true" if stream else b"false")

    def _api(self, rng: random.Random) -> str:
        return rng.choice(self.stack.urls)

    def _given_up(self) -> bool:
        return time.monotonic() > self._give_up_at

    async def _submit(self, sub: Submission, url: str, body: bytes, *, stream: bool) -> str | None:
        answer = await self._post(sub, url, "/v1/jobs", self._job(body, stream=stream))
        if answer is None or answer.status_code not in {200, 202}:
            return None
        job = answer.json()
        sub.ids.add(job["id"])
        self.ledger.see(sub, job["id"], job["state"])
        return str(job["id"])

    async def _post(self, sub: Submission, url: str, path: str, body: bytes) -> httpx.Response | None:
        headers = {"idempotency-key": sub.key} if sub.key else {}
        try:
            answer = await self._http.post(url + path, content=body, headers=headers)
        except httpx.TransportError as error:
            self._tried(sub, url, 0 if isinstance(error, httpx.ConnectError) else None, None)
            return None
        self._take_id(sub, answer)
        self._tried(sub, url, answer.status_code, answer)
        return answer

    async def _send(self, url: str, body: bytes, key: str) -> httpx.Response | None:
        try:
            return await self._http.post(f"{url}/v1/jobs", content=body, headers={"idempotency-key": key})
        except httpx.TransportError:
            return None

    @staticmethod
    def _take_id(sub: Submission, answer: httpx.Response) -> None:
        job_id = answer.headers.get("x-penstock-job-id")
        if job_id:
            sub.ids.add(job_id)

    def _tried(self, sub: Submission, url: str, status: int | None, answer: httpx.Response | None) -> None:
        code = None
        if answer is not None and answer.status_code >= 400:
            code = answer.json()["error"]["code"]
            self.ledger.counts[f"answers.{answer.status_code}.{code}"] += 1
            retry_after = answer.headers.get("retry-after")
            if answer.status_code in {429, 503} and not (retry_after and 1 <= int(retry_after) <= 120):
                self.ledger.break_("503 and 429 say when to come back", code=code, retry_after=retry_after)
            if answer.status_code not in {409, 429, 503, 504}:
                self.ledger.break_(
                    "faults are answered 429, 503 or 504", status=answer.status_code, body=answer.text[:500]
                )
        elif status is None:
            self.ledger.counts["answers.none"] += 1
        sub.tries.append(Try(url, time.time(), status, code))

    def _compare(self, sub: Submission, text: str, *, where: str, whole: bool = True) -> None:
        if sub.text is None or text == sub.text or (not whole and sub.text.startswith(text)):
            return
        kind = "tokens_repeated" if len(text) > len(sub.text) or not whole else "tokens_lost"
        self.ledger.counts[kind] += 1
        self.ledger.break_(
            "no token is repeated or lost", marker=sub.marker, where=where, got=text, wanted=sub.text
        )

    async def _ask(self, method: str, path: str, rng: random.Random) -> dict[str, Any] | None:
        """Ask some api until it answers; None: gave up."""
        while not self._given_up():
            try:
                answer = await self._http.request(method, self._api(rng) + path)
            except httpx.TransportError:
                await asyncio.sleep(RETRY_S)
                continue
            if answer.status_code == 200:
                return dict(answer.json())
            if answer.status_code != 503:
                self.ledger.break_(
                    "an accepted job is found", path=path, status=answer.status_code, body=answer.text[:300]
                )
                return None
            await asyncio.sleep(RETRY_S)
        return None

    async def _await_end(self, sub: Submission, job_id: str, rng: random.Random) -> dict[str, Any] | None:
        while True:
            job = await self._ask("GET", f"/v1/jobs/{job_id}?wait=2", rng)
            if job is None:
                return None
            self.ledger.see(sub, job_id, job["state"])
            if job["state"] in TERMINAL:
                if job["state"] == "succeeded":
                    self._compare(sub, text_of(job["result"]), where=f"the result of {job_id}")
                return job

    async def _read_events(
        self, sub: Submission, job_id: str, reader: EventReader, rng: random.Random
    ) -> int:
        """Follow a job to its end, over as many connections as it takes, some of them cut here. Returns how many."""
        connections = 0
        while reader.state is None and not self._given_up():
            connections += 1
            leave_after = rng.choice([None, 1, 2, 5, 12])
            headers = {"last-event-id": reader.cursor} if reader.cursor else {}
            taken = 0
            try:
                url = f"{self._api(rng)}/v1/jobs/{job_id}/events"
                async with self._http.stream("GET", url, headers=headers) as answer:
                    if answer.status_code == 200:
                        async for line in answer.aiter_lines():
                            taken += reader.feed(line)
                            if reader.state or self._given_up() or (leave_after and taken >= leave_after):
                                break
                    elif answer.status_code != 503:
                        self.ledger.break_("an accepted job is found", job=job_id, events=answer.status_code)
                        return connections
            except httpx.TransportError:
                pass
            reader.drop()
            if not taken:
                await asyncio.sleep(RETRY_S)
        return connections
