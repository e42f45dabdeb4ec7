"""Mixed load: clients that behave as different users do, and write down what they were answered."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable

import httpx

from tests.chaos.background import ResponseReader, text_of_response
from tests.chaos.clients import MODELS, RETRY_S, Clients
from tests.chaos.ledger import Ledger, Submission
from tests.chaos.stack import Stack
from tests.chaos.streams import EventReader, OpenAIReader, text_of

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MIX = {
    "sync": 3,
    "streamed": 3,
    "poll": 4,
    "follow": 5,
    "keyed": 4,
    "cancel": 2,
    "hangup": 1,
    "background": 4,
}
"""Kinds of clients and their shares."""


class Load(Clients):
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
        super().__init__(stack, ledger, seed, tokens=tokens, long_tokens=long_tokens)
        self._seed = seed
        self._clients = clients
        self._mix = mix or MIX
        self._pause_s = pause_s
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
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

    async def _background(self, rng: random.Random) -> None:
        """A background response is created, followed over cut connections, and read."""
        sub, body = self._new("background", rng)
        sub.text = None  # what is asked for is another prompt to the engine
        reader = ResponseReader()
        await self._create(sub, reader, body, rng)
        if not sub.ids:
            return
        (job_id,) = sub.ids
        response_id = f"resp_{job_id}"
        counts = self.ledger.counts
        counts["background_streams"] += 1
        counts["background_stream_reconnects"] += await self._read_response(response_id, reader, rng) - 1
        counts["background_restarts"] += max(0, reader.restarts)
        for problem in reader.problems:
            self.ledger.break_("starting_after loses and repeats nothing", job=job_id, problem=problem)
        if reader.response is None:
            return  # gave up: the checker sees whether the job is lost
        stored = await self._ask("GET", f"{RESPONSES}/{response_id}", rng)
        if stored is None:
            return
        job = await self._await_end(sub, job_id, rng)
        said = {"streamed": reader.text, "stored": text_of_response(stored)}
        if stored["status"] != reader.response["status"] or (
            job is not None and job["state"] == "succeeded" and len(set(said.values())) > 1
        ):
            statuses = {"told": reader.response["status"], "now": stored["status"]}
            self.ledger.break_("starting_after loses and repeats nothing", job=job_id, **said, **statuses)

    async def _create(self, sub: Submission, reader: ResponseReader, body: bytes, rng: random.Random) -> None:
        """Create a background response, and read its first events on the same connection."""
        asked = {"model": MODELS[self.stack.engine], "background": True, "stream": True} | _as_input(body)
        url, status, leave_after = self._api(rng), None, rng.choice([None, 1, 2, 5, 12])
        try:
            async with self._http.stream("POST", url + RESPONSES, json=asked) as answer:
                status = answer.status_code
                self._take_id(sub, answer)
                if status != 200:
                    await answer.aread()
                    self._tried(sub, url, status, answer)
                    return
                taken = 0
                async for line in answer.aiter_lines():
                    taken += reader.feed(line)
                    if reader.response or (leave_after and taken >= leave_after):
                        break
        except httpx.TransportError as error:
            refused = status is None and isinstance(error, httpx.ConnectError)
            self._tried(sub, url, 0 if refused else status, None)
        else:
            self._tried(sub, url, status, None)

    async def _read_response(self, response_id: str, reader: ResponseReader, rng: random.Random) -> int:
        """Follow a response to its end, over as many connections as it takes, some of them cut here. Returns how many."""
        connections = 0
        while reader.response is None and not self._given_up():
            connections += 1
            leave_after = rng.choice([None, 1, 2, 5, 12])
            after = "" if reader.last < 0 else f"&starting_after={reader.last}"
            taken = 0
            try:
                url = f"{self._api(rng)}{RESPONSES}/{response_id}?stream=true{after}"
                async with self._http.stream("GET", url) as answer:
                    if answer.status_code == 200:
                        async for line in answer.aiter_lines():
                            taken += reader.feed(line)
                            if reader.response or self._given_up() or (leave_after and taken >= leave_after):
                                break
                    elif answer.status_code != 503:
                        said = (await answer.aread()).decode()[:300]
                        self.ledger.break_("an accepted response is found", job=response_id, answer=said)
                        return connections
            except httpx.TransportError:
                pass
            if not taken:
                await asyncio.sleep(RETRY_S)
        return connections


def _as_input(body: bytes) -> dict[str, object]:
    """Return the fields of a response for those of a chat."""
    chat = json.loads(body)
    more = {"ignore_eos": True} if chat.get("ignore_eos") else {}
    return {"input": chat["messages"], "max_output_tokens": chat["max_tokens"], **more}
