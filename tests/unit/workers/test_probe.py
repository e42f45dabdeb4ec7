"""Learning the form of a server's streams, from a machine that merges tokens now and then."""

from __future__ import annotations

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from jobs.endpoints import COMPLETIONS
from jobs.stream_chunks import Frames
from workers.engines.base import Emit, EngineRequest, Final
from workers.engines.vllm.compact import Shapes
from workers.engines.vllm.probe import learn

pytestmark = pytest.mark.asyncio


def compact(chunk: dict[str, Any]) -> str:
    return json.dumps(chunk, separators=(",", ":"))


class Server:
    """An engine that passes on a server's own chunks. ``hasty``: so many streams have all their tokens in one chunk."""

    def __init__(self, hasty: int) -> None:
        self._hasty = hasty

    async def run(self, request: EngineRequest, emit: Emit) -> Final:
        body = json.loads(request.body)
        tokens = list(range(1, body["max_tokens"] + 1))
        if stop := body.get("stop_token_ids"):
            tokens = tokens[: tokens.index(stop[0])]
        if request.stream:
            self._stream(body, [f"t{token}" for token in tokens], emit)
        choice = {"token_ids": tokens, "text": "".join(f"t{token}" for token in tokens)}
        return Final(200, json.dumps({"choices": [choice]}).encode(), None)

    def _stream(self, body: dict[str, Any], texts: list[str], emit: Emit) -> None:
        stopped = "stop_token_ids" in body
        if self._hasty:
            self._hasty -= 1
            texts = ["".join(texts)]
        if stopped:
            texts.append("")
        head = {"id": "cmpl-1", "created": 1, "model": "m"}
        for text in texts:
            last = text is texts[-1]
            finish = ("stop" if stopped else "length") if last else None
            choice = {
                "index": 0,
                "text": text,
                "finish_reason": finish,
                "stop_reason": 1 if last and stopped else None,
            }
            emit(Frames((compact({**head, "choices": [choice]}),)))
        if body.get("stream_options"):
            usage = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 1)
            emit(Frames((compact({**head, "choices": [], "usage": usage}),)))


@pytest.mark.parametrize("hasty", [0, 1, 13])
async def test_merged_tokens_only_cost_another_try(hasty: int) -> None:
    shapes: dict[tuple[str, bool], Shapes] = {}
    server: Any = Server(hasty)
    with capture_logs() as logs:
        assert await learn(server, COMPLETIONS, shapes, compact=True)
    assert set(shapes) == {(COMPLETIONS, False), (COMPLETIONS, True)}
    assert logs == []


async def test_a_form_that_cannot_be_learned_is_logged() -> None:
    shapes: dict[tuple[str, bool], Shapes] = {}
    server: Any = Server(10_000)
    with capture_logs() as logs:
        assert await learn(server, COMPLETIONS, shapes, compact=True)
    assert not shapes
    assert [line["event"] for line in logs] == ["stream_form_not_learned"]
