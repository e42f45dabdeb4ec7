"""What a person at a terminal sees of a job that waits in the queue, and that nobody else sees it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from broker.claims import Claim
from jobs.stream_chunks import Frames, Head, Text
from tests.apiserver import ApiServer
from tests.integration.test_api_jobs import INPUT
from tests.puppet import Puppet
from tests.support import eventually
from tests.terminal import ROOT, Terminal

pytestmark = pytest.mark.asyncio

HEAD = Head(
    ('{"choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}]}',),
    '{"choices":[{"index":0,"delta":{"content":',
    '},"finish_reason":null}]}',
)
CLOSING = Frames(('{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',))
ERASED = "\x1b[2K"


async def expect(screen: Terminal, text: str) -> str:
    return await asyncio.to_thread(screen.expect, text)


async def answer(puppet: Puppet, claim: Claim, *, stream: bool = True) -> None:
    if stream:
        await puppet.say(claim, HEAD, Text("Hello"))
    result = b'{"choices":[{"message":{"content":"Hello"}}]}'
    await puppet.succeed(claim, result, tail=[CLOSING] if stream else ())


def erased_before(screen: Terminal, last: str, text: str) -> bool:
    """Whether the line was removed between its last words and the text."""
    shown = screen.raw
    return ERASED in shown[shown.rindex(last) : shown.index(text)]


@pytest.mark.parametrize("command", ["submit", "wait"])
async def test_a_waiting_job_shows_its_place_until_something_comes(
    api: ApiServer, http: httpx.AsyncClient, puppet: Puppet, command: str
) -> None:
    ahead = [(await http.post("/v1/jobs", json={"input": INPUT})).json()["id"] for _ in range(2)]
    words = ("submit", "hi", "--stream")
    if command == "wait":
        mine = (await http.post("/v1/jobs", json={"input": INPUT})).json()["id"]
        words = ("jobs", "wait", mine)
    with Terminal("--url", api.url, *words, env={}) as screen:
        await expect(screen, "2 before it")
        for job_id in ahead:
            await http.post(f"/v1/jobs/{job_id}/cancel")
        await expect(screen, "next")
        claim = await puppet.take()
        await expect(screen, "running")
        await answer(puppet, claim, stream=command == "submit")
        await expect(screen, "Hello")
        assert await asyncio.to_thread(screen.end) == 0
    assert erased_before(screen, "running", "Hello")


async def test_a_job_of_a_paused_pool_says_so(
    api: ApiServer, http: httpx.AsyncClient, puppet: Puppet
) -> None:
    await http.post("/v1/queues/default/pause")
    with Terminal("--url", api.url, "submit", "hi", "--wait", env={}) as screen:
        await expect(screen, "next; the pool default is paused")
        await http.post("/v1/queues/default/resume")
        await puppet.succeed(await puppet.take())
        assert await asyncio.to_thread(screen.end) == 0


async def test_a_chat_shows_its_place_until_its_answer_comes(
    api: ApiServer, http: httpx.AsyncClient, puppet: Puppet, tmp_path: Path
) -> None:
    busy = asyncio.create_task(http.post("/v1/chat/completions", json=INPUT))
    await eventually(puppet.waiting)
    with Terminal("--url", api.url, "chat", env={"XDG_STATE_HOME": str(tmp_path)}) as screen:
        await expect(screen, "> ")
        await asyncio.to_thread(screen.line, "hi")
        await expect(screen, "1 before it")
        await puppet.succeed(await puppet.take())
        await busy
        await expect(screen, "next")
        await answer(puppet, await puppet.take())
        await expect(screen, "Hello")
        await expect(screen, "> ")
        await asyncio.to_thread(screen.line, "/exit")
        assert await asyncio.to_thread(screen.end) == 0
    assert erased_before(screen, "next", "Hello")


@pytest.mark.parametrize("words", [("submit", "hi", "--stream", "--text"), ("chat",)])
async def test_a_pipe_gets_nothing_of_it(api: ApiServer, puppet: Puppet, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "penstock", "--url", api.url, *words]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ,
    ) as process:
        told = asyncio.create_task(asyncio.to_thread(process.communicate, b"hi"))
        claim = await puppet.take()
        await answer(puppet, claim)
        out, err = await told
    assert (process.returncode, out) == (0, b"Hello\n")
    assert b"before it" not in err
    assert b"waiting" not in err
    assert b"running" not in err
