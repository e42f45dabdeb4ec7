"""Mixed load: clients that behave as different users do, and write down what they were answered."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from tests.chaos.ledger import TERMINAL, Ledger, Submission, Try
from tests.chaos.stack import Stack
from tests.chaos.streams import EventReader, OpenAIReader, text_of
from workers.engines.settings import SimulatedSettings
from workers.engines.simulated.engine import SimulatedEngine

CHAT = "/v1/chat/completions"
RETRY_S = 0.2
MODELS = {"simulated": "simulated", "vllm": "tiny-random"}
MIX = {"sync": 3, "streamed": 3, "poll": 4, "follow": 5, "keyed": 4, "cancel": 2, "hangup": 1}
"""Kinds of clients and their shares."""

_voice = SimulatedEngine(SimulatedSettings())


class Load:
    """Clients against a stack's apis, until told to stop.

    Args:
        stack: whose apis.
        ledger: where they write.
        seed: of everything they draw.
        clients: how many at once.
        mix: kinds and their shares.
        tokens: least and greatest length of a short answer; one in eight is ``long_tokens``.
        long_tokens: length of a long one.
        pause_s: longest pause between two pieces of work.
    """

    def __init__(
        self,
        stack: Stack,
        ledger: Ledger,
        seed: str,
        *,
        clients: int = 12,
        mix: dict[str, int] | None = None,
        tokens: tuple[int, int] = (3, 25),
        long_tokens: int = 80,
        pause_s: float = 0.2,
    ) -> None:
        self.stack = stack
        self.ledger = ledger
        self._seed = seed
        self._name = re.sub(r"\W+", "-", seed)
        self._clients = clients
        self._mix = mix or MIX
        self._tokens = tokens
        self._long = long_tokens
        self._pause_s = pause_s
        self._number = itertools.count(1)
        self._stopping = False
        self._give_up_at = float("inf")
        self._tasks: list[asyncio.Task[None]] = []
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(20.0, connect=5.0), limits=httpx.Limits(max_connections=400)
        )
        self._acts: dict[str, Callable[[random.Random], Awaitable[None]]] = {
            kind: getattr(self, f"_{kind}") for kind in MIX
        }

    def start(self) -> None:
        """Let the clients begin."""
        for n in range(self._clients):
            rng = random.Random(f"{self._seed}/client/{n}")
            self._tasks.append(asyncio.create_task(self._client(rng), name=f"client {n}"))

    def hold(self) -> None:
        """Begin nothing new."""
        self._stopping = True

    async def finish(self, patience_s: float = 60.0) -> None:
        """Begin nothing new, and let what was begun come to its end, for at most ``patience_s`` seconds."""
        self._stopping = True
        self._give_up_at = time.monotonic() + patience_s
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                self.ledger.break_("clients do not crash", error=repr(outcome))

    async def _client(self, rng: random.Random) -> None:
        kinds, shares = list(self._mix), list(self._mix.values())
        while not self._stopping:
            await self._acts[rng.choices(kinds, shares)[0]](rng)
            await asyncio.sleep(rng.uniform(0, self._pause_s))

    # ---- the kinds ---------------------------------------------------------------------------------------------

    async def _sync(self, rng: random.Random) -> None:
        sub, body = self._new("sync", rng)
        answer = await self._post(sub, self._api(rng), CHAT, body)
        if answer is not None and answer.status_code == 200:
            self._compare(sub, text_of(answer.json()), where="the answer of a sync call")

    async def _streamed(self, rng: random.Random) -> None:
        sub, body = self._new("streamed", rng, stream=True)
        reader, url = OpenAIReader(), self._api(rng)
        status: int | None = None
        try:
            async with self._http.stream("POST", url + CHAT, content=body) as answer:
                status = answer.status_code
                self._take_id(sub, answer)
                if status != 200:
                    await answer.aread()
                    self._tried(sub, url, status, answer)
                    return
                async for line in answer.aiter_lines():
                    reader.feed(line)
        except httpx.TransportError as error:
            self._tried(
                sub, url, 0 if status is None and isinstance(error, httpx.ConnectError) else status, None
            )
            self.ledger.counts["openai_streams_cut"] += 1
        else:
            self._tried(sub, url, status, None)
            if not reader.done and reader.error is None:
                self.ledger.counts["openai_streams_cut"] += 1
        self.ledger.counts["openai_streams"] += 1
        if reader.error:
            self.ledger.counts[f"openai_streams_error.{reader.error}"] += 1
        self._compare(sub, reader.text, whole=reader.done, where="an OpenAI stream")

    async def _poll(self, rng: random.Random) -> None:
        sub, body = self._new("poll", rng)
        job_id = await self._submit(sub, self._api(rng), body, stream=rng.random() < 0.3)
        if job_id is not None:
            await self._await_end(sub, job_id, rng)

    async def _follow(self, rng: random.Random) -> None:
        sub, body = self._new("follow", rng)
        job_id = await self._submit(sub, self._api(rng), body, stream=True)
        if job_id is None:
            return
        reader = EventReader()
        connections = await self._read_events(sub, job_id, reader, rng)
        counts = self.ledger.counts
        counts["event_streams"] += 1
        counts["event_stream_reconnects"] += connections - 1
        counts["restarted_events"] += reader.restarts
        for problem in reader.problems:
            self.ledger.break_("no token is repeated or lost", job=job_id, problem=problem)
        for attempt, text in reader.texts.items():
            whole = reader.state == "succeeded" and attempt == reader.attempt
            self._compare(sub, text, whole=whole, where=f"the event stream of {job_id}, attempt {attempt}")
        if reader.state is None:
            return  # gave up: the checker sees whether the job is lost
        self.ledger.see(sub, job_id, reader.state)
        job = await self._await_end(sub, job_id, rng)
        if (
            job is not None
            and reader.state == "succeeded"
            and text_of(job["result"]) != reader.texts.get(reader.attempt, "")
        ):
            counts["streams_not_as_result"] += 1
            said = {"streamed": reader.texts.get(reader.attempt, ""), "result": text_of(job["result"])}
            self.ledger.break_("no token is repeated or lost", job=job_id, **said)

    async def _keyed(self, rng: random.Random) -> None:
        sub, body = self._new("keyed", rng)
        sub.key = sub.marker
        stream = rng.random() < 0.3
        job_id = None
        while job_id is None and not self._given_up():
            job_id = await self._submit(sub, self._api(rng), body, stream=stream)
            if job_id is None:
                await asyncio.sleep(RETRY_S)
        if job_id is None:
            return
        await self._submit(sub, self._api(rng), body, stream=stream)
        if len(sub.ids) > 1:
            self.ledger.break_("one key, one job", key=sub.key, jobs=sorted(sub.ids))
        other = await self._send(self._api(rng), self._job(body, stream=not stream), sub.key)
        if other is not None and other.status_code not in {409, 429, 503}:
            self.ledger.break_(
                "another body with the same key is refused", key=sub.key, status=other.status_code
            )
        await self._await_end(sub, job_id, rng)

    async def _cancel(self, rng: random.Random) -> None:
        sub, body = self._new("cancel", rng, long=rng.random() < 0.8)
        job_id = await self._submit(sub, self._api(rng), body, stream=rng.random() < 0.5)
        if job_id is None:
            return
        await asyncio.sleep(rng.uniform(0, 1.0))
        told = await self._ask("POST", f"/v1/jobs/{job_id}/cancel", rng)
        if told is not None:
            self.ledger.see(sub, job_id, told["state"])
        job = await self._await_end(sub, job_id, rng)
        if job is not None and told is not None and job["state"] not in {"cancelled", "succeeded", "failed"}:
            self.ledger.break_("a cancelled job ends", job=job_id, state=job["state"])

    async def _hangup(self, rng: random.Random) -> None:
        sub, body = self._new("hangup", rng, long=True)
        try:
            async with asyncio.timeout(rng.uniform(0.02, 0.6)):
                await self._post(sub, self._api(rng), CHAT, body)
        except TimeoutError:
            self._tried(sub, "", None, None)

    # ---- what they share ---------------------------------------------------------------------------------------

    def _new(
        self, kind: str, rng: random.Random, *, long: bool | None = None, stream: bool = False
    ) -> tuple[Submission, bytes]:
        marker = f"chaos-{self._name}-{next(self._number)}"
        tokens = (
            self._long if (rng.random() < 0.125 if long is None else long) else rng.randint(*self._tokens)
        )
        model = MODELS[self.stack.engine]
        messages = json.dumps([{"role": "user", "content": f"{marker} says: what next?"}])
        text = "".join(_voice._words(messages.encode(), tokens)) if model == "simulated" else None
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
