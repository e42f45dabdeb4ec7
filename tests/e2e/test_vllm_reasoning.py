"""Models that reason stream compactly, and what the client gets is, byte for byte, what vLLM's own parser makes of it."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from jobs.endpoints import CHAT, MESSAGES, RESPONSES
from jobs.stream_chunks import Chunk, Frames, Head, Text
from tests.e2e.parsers import TEMPLATE, parsing
from workers.engines.assemble import SseReader
from workers.engines.base import Engine, EngineRequest, EngineStartError
from workers.engines.settings import VllmSettings
from workers.engines.vllm.compact_streams import CompactStreams
from workers.engines.vllm.parsers import set_parsers
from workers.engines.vllm.probe import render

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]

CLOSE = 4095
"""The id of `</think>`."""

PARSERS = {
    "deepseek_r1": ('--structured-outputs-config={"reasoning_parser":"deepseek_r1"}',),
    "qwen3 with tools": (
        '--structured-outputs-config={"reasoning_parser":"qwen3"}',
        "--enable-auto-tool-choice",
        "--tool-call-parser=hermes",
    ),
    "granite": ('--structured-outputs-config={"reasoning_parser":"granite"}',),
    "tools alone": ("--enable-auto-tool-choice", "--tool-call-parser=qwen3_coder"),
}
QUICK = ("deepseek_r1", "qwen3 with tools")

SAID = (
    "Has two simple</think> public on speak price money.",
    "<think>Has two</think>\n\nPublic. On speak",
    "no end of it at all",
    "</think>at once, and again</think> here",
    "<think></think>",
    "Here is my thought process: it flows.\nHere is my response: the dam holds.",
    "Here is my other answer",
    "Zürich 東京 🙂</think> naïve 🙂",
    "answer</think>\n<tool_call>\n<function=close>\n</function>\n</tool_call>",
)


@dataclass
class Parsing:
    engine: Engine
    theirs: httpx.AsyncClient

    async def stream(self, body: dict[str, Any]) -> tuple[list[Chunk], dict[str, Any]]:
        chunks: list[Chunk] = []
        request = EngineRequest("job_1", CHAT, json.dumps(body).encode(), stream=True)
        final = await self.engine.run(request, chunks.append)
        assert final.status == 200, final.body
        return chunks, json.loads(final.body)


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="session",
    params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in PARSERS],
)
async def parsed(
    request: pytest.FixtureRequest,
    vllm_engine: Engine,
    vllm_settings: VllmSettings,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Parsing]:
    folder: Path = tmp_path_factory.mktemp("parsers")
    async with parsing(vllm_engine, vllm_settings, folder, *PARSERS[request.param]) as (engine, theirs):
        yield Parsing(engine, theirs)


def cuts(ids: list[int], seed: int) -> list[list[int]]:
    """Cut a text's tokens into deltas, as a busy machine does, or speculation."""
    rng, at, out = random.Random(seed), 0, []
    while at < len(ids):
        size = rng.choice((1, 1, 1, 2, 3, 7))
        out.append(ids[at : at + size])
        at += size
    return out if seed % 2 else [*out, []]


async def both_ways(
    engine: Any, deltas: list[list[int]], body: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Return what the tap makes of an engine's outputs, and what vLLM's own code does."""
    from vllm.entrypoints.generate.base.protocol import RequestResponseMetadata
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.outputs import CompletionOutput, RequestOutput

    serving, compact = engine._front.app.state.openai_serving_chat, engine._front.compact
    tokenizer = engine._llm.tokenizer
    parsed_body = ChatCompletionRequest.model_validate({**body, "request_id": "job_1"})
    kwargs = serving._effective_chat_template_kwargs(parsed_body)
    _, (prompt,) = await serving.render_chat_request(parsed_body)

    def outputs() -> list[RequestOutput]:
        ends = {len(deltas) - 1: "stop" if len(deltas) % 2 else "length"}
        return [
            RequestOutput(
                request_id="chatcmpl-job_1",
                prompt=None,
                prompt_token_ids=prompt["prompt_token_ids"],
                prompt_logprobs=None,
                outputs=[
                    CompletionOutput(
                        0, tokenizer.decode(ids), list(ids), None, None, finish_reason=ends.get(at)
                    )
                ],
                finished=at in ends,
            )
            for at, ids in enumerate(deltas)
        ]

    async def played() -> AsyncIterator[RequestOutput]:
        for output in outputs():
            yield output

    sent = serving.chat_completion_stream_generator(
        parsed_body, played(), "chatcmpl-job_1", "tiny-random", [], tokenizer,
        RequestResponseMetadata(request_id="chatcmpl-job_1"), chat_template_kwargs=kwargs,
    )  # fmt: skip
    theirs = SseReader().feed("".join([frame async for frame in sent]).encode())

    chunks: list[Chunk] = []
    assert isinstance(compact, CompactStreams)
    opened = compact.open(EngineRequest("job_1", CHAT, b"", stream=True), dict(body), chunks.append)
    assert opened is not None
    tap = compact.taps[opened]
    serving._make_parser(parsed_body, tokenizer, kwargs)
    compact.close(opened)
    tap.attach(Collector(), None)
    for output in outputs():
        tap.on_output(output)
    assert isinstance(chunks[0], Head)
    return [timeless(frame) for frame in render(chunks)], [timeless(frame) for frame in theirs]


class Collector:
    """Stands where a request's outputs are collected."""

    def put(self, output: Any) -> None:
        assert not isinstance(output, Exception), output

    def get_nowait(self) -> None:
        return None


def timeless(frame: str) -> str:
    return re.sub(r'"created":\d+', '"created":0', frame)


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("thinks", [True, False])
async def test_every_cut_gives_vllms_own_bytes(parsed: Parsing, thinks: bool, usage: bool) -> None:
    engine: Any = parsed.engine
    body: dict[str, Any] = {"model": "tiny-random", "stream": True, "reasoning_effort": "low"}
    body["messages"] = [{"role": "user", "content": "Tell me"}]
    body["chat_template_kwargs"] = {"enable_thinking": thinks}
    if usage:
        body["stream_options"] = {"include_usage": True}
    for said in SAID:
        ids = engine._llm.tokenizer.encode(said)
        for seed in range(12):
            deltas = cuts(ids, seed)
            ours, theirs = await both_ways(engine, deltas, body)
            assert ours == theirs, (said, deltas)


def chat(**more: Any) -> dict[str, Any]:
    body = {"model": "tiny-random", "messages": [{"role": "user", "content": "Tell me"}], "temperature": 0}
    return {**body, "max_tokens": 24, "logit_bias": {str(CLOSE): 34}, **more}


async def test_a_running_model_streams_its_reasoning_compactly(parsed: Parsing) -> None:
    body = chat(stream=True, stream_options={"include_usage": True})
    chunks, whole = await parsed.stream(body)
    kinds = [type(chunk) for chunk in chunks]
    assert kinds[0] is Head
    assert kinds.count(Frames) <= 2  # the end, and perhaps the delta in which the reasoning ends
    texts = [chunk for chunk in chunks if isinstance(chunk, Text)]
    assert len(texts) > 5
    answer = await parsed.theirs.post(CHAT, json=body, headers={"x-request-id": "job_1"})
    ours, theirs = (channels(frames) for frames in (render(chunks), SseReader().feed(answer.content)))
    assert ours == theirs
    message = whole["choices"][0]["message"]
    assert ours == (message["reasoning"] or "", message["content"] or "")


def channels(frames: list[str]) -> tuple[str, str]:
    deltas = [choice["delta"] for frame in frames for choice in json.loads(frame)["choices"]]
    reasoning, content = ("".join(one.get(name) or "" for one in deltas) for name in ("reasoning", "content"))
    return reasoning, content


async def test_a_parser_that_fails_ends_its_request_alone(
    parsed: Parsing, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = parsed.engine
    parser, turns = engine._front.app.state.openai_serving_chat.parser_cls, count()
    original = parser.parse_delta

    def fails(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next(turns) == 3:
            raise IndexError("a parser's mistake")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(parser, "parse_delta", fails)
    chunks: list[Chunk] = []
    request = EngineRequest("job_1", CHAT, json.dumps(chat(stream=True)).encode(), stream=True)
    (outcome,) = await asyncio.gather(parsed.engine.run(request, chunks.append), return_exceptions=True)
    assert type(outcome).__name__ == "EngineGenerateError"  # the job's attempt ends as a fault of ours
    assert not any(isinstance(chunk, Frames) and 'finish_reason":"' in chunk.frames[0] for chunk in chunks)
    await parsed.stream(chat(stream=True))


@pytest.mark.parametrize(
    "more", [{"logprobs": True}, {"n": 2, "temperature": 1}, {"include_reasoning": False}]
)
async def test_what_is_not_plain_goes_vllms_own_way(parsed: Parsing, more: dict[str, Any]) -> None:
    chunks, _ = await parsed.stream(chat(stream=True, **more))
    assert {type(chunk) for chunk in chunks} == {Frames}


async def test_whole_answers_responses_and_messages_reason_as_vllms_own(parsed: Parsing) -> None:
    said = {"role": "user", "content": "Tell me"}
    common = {"model": "tiny-random", "temperature": 0, "logit_bias": {str(CLOSE): 34}}
    bodies = {
        CHAT: {**common, "messages": [said], "max_tokens": 24},
        RESPONSES: {**common, "input": [said], "max_output_tokens": 24, "store": False},
        MESSAGES: {**common, "messages": [said], "max_tokens": 24},
    }
    for endpoint, body in bodies.items():
        request = EngineRequest("job_1", endpoint, json.dumps(body).encode())
        ours = await parsed.engine.run(request, lambda _: None)
        theirs = await parsed.theirs.post(endpoint, json=body, headers={"x-request-id": "job_1"})
        assert ours.status == theirs.status_code == 200
        assert parts(json.loads(ours.body)) == parts(theirs.json()), endpoint
        chunks: list[Chunk] = []
        streamed = EngineRequest(
            "job_2", endpoint, json.dumps({**body, "stream": True}).encode(), stream=True
        )
        final = await parsed.engine.run(streamed, chunks.append)
        assert parts(json.loads(final.body)) == parts(theirs.json()), endpoint


def parts(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the parts of an answer, whatever its form: their kind, and their text."""
    if "choices" in answer:
        message = answer["choices"][0]["message"]
        return [(name, message.get(name) or "") for name in ("reasoning", "content")]
    if "output" in answer:
        return [
            (item["type"], "".join(part["text"] for part in item["content"])) for item in answer["output"]
        ]
    return [(block["type"], block.get("thinking") or block.get("text") or "") for block in answer["content"]]


def flags_for(folder: Path, change: dict[str, Any], *flags: str, **settings: Any) -> Any:
    """Return vLLM's flags for a model of another type and with another template, after the choice of its parsers."""
    from vllm.entrypoints.cli.serve import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    for name, said in change.items():
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    made = VllmSettings(str(folder), **{"tool_call_parser": "auto", "reasoning_parser": "auto", **settings})
    args = make_arg_parser(FlexibleArgumentParser()).parse_args([*made.argv(), *flags])
    set_parsers(args, made)
    return args


@pytest.fixture
def qwen3(tiny_model_path: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_path, folder)
    return folder, {
        "config.json": {"model_type": "qwen3"},
        "tokenizer_config.json": {"chat_template": TEMPLATE},
    }


async def test_parsers_are_chosen_by_the_family_and_the_log_says_why(
    qwen3: tuple[Path, dict[str, Any]],
) -> None:
    with capture_logs() as logs:
        args = flags_for(*qwen3)
    assert (args.tool_call_parser, args.enable_auto_tool_choice, args.reasoning_parser) == (
        "hermes",
        True,
        "qwen3",
    )
    (line,) = [one for one in logs if one["event"] == "parsers_chosen"]
    assert line["reasoning_parser_why"].startswith("Qwen3, by the model's type")


async def test_flags_and_settings_win_over_the_family(qwen3: tuple[Path, dict[str, Any]]) -> None:
    args = flags_for(*qwen3, "--tool-call-parser=llama3_json", reasoning_parser="none")
    assert (args.tool_call_parser, args.enable_auto_tool_choice) == ("llama3_json", False)
    assert not args.reasoning_parser
    named = flags_for(*qwen3, tool_call_parser="none", reasoning_parser="deepseek_r1")
    assert (named.tool_call_parser, named.reasoning_parser) == (None, "deepseek_r1")


async def test_a_parser_that_the_tokenizer_does_not_fit_is_not_chosen(
    qwen3: tuple[Path, dict[str, Any]],
) -> None:
    folder, change = qwen3
    change["config.json"]["model_type"] = "mistral"
    change["tokenizer_config.json"]["chat_template"] += "{# [TOOL_CALLS] #}"
    with capture_logs() as logs:
        args = flags_for(folder, change)
    assert not args.tool_call_parser
    assert "does not fit" in logs[-1]["tool_parser_why"]


@pytest.mark.parametrize("setting", ["tool_call_parser", "reasoning_parser"])
async def test_an_unknown_parser_stops_the_start(qwen3: tuple[Path, dict[str, Any]], setting: str) -> None:
    with pytest.raises(
        EngineStartError, match=r"has no .*_parser 'mine': choose `auto`, `none` or one of .*hermes|qwen3"
    ):
        flags_for(qwen3[0], qwen3[1], **dict[str, Any]({setting: "mine"}))
