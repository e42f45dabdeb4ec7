"""In which order the rows of a window run, and which of them one run answers."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.batch_rows import Row
from jobs.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES
from workers.batches.plan import Planner, Run

BOTH = Planner(prefix_order=True, identical_once=True)


def placed(*bodies: bytes | dict[str, Any]) -> list[tuple[Row, int]]:
    """Return rows ``r0``, ``r1``, ... that are ten bytes apart."""
    written = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in bodies]
    return [(Row(f"r{n}", body), 10 * n) for n, body in enumerate(written)]


def plan(planner: Planner, endpoint: str, rows: list[tuple[Row, int]]) -> list[Run]:
    window = planner.window(endpoint)
    for row, at in rows:
        window.add(row, at)
    return window.runs()


def chat(system: str, text: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return {"seed": random.randrange(10**6), "model": "m", "messages": messages, **more}


def names(runs: list[Run]) -> list[list[str]]:
    """Return the rows of each run."""
    return [[run.row.custom_id, *(name for name, _ in run.twins)] for run in runs]


def test_rows_with_a_common_prefix_run_one_after_the_other() -> None:
    rows = placed(*(chat(f"You are {kind}.", text) for text in "cab" for kind in ("b", "a", "c")))
    order = [run.row.custom_id for run in plan(BOTH, CHAT, rows)]
    assert order == ["r4", "r7", "r1", "r3", "r6", "r0", "r5", "r8", "r2"]
    as_given = plan(Planner(prefix_order=False, identical_once=True), CHAT, rows)
    assert [run.row.custom_id for run in as_given] == [f"r{n}" for n in range(9)]


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (COMPLETIONS, ({"prompt": "b"}, {"prompt": "a"})),
        (EMBEDDINGS, ({"input": ["b"]}, {"input": ["a", "z"]})),
        (RESPONSES, ({"instructions": "b", "input": "a"}, {"instructions": "a", "input": "b"})),
        (CHAT, ({"tools": ["b"], "messages": "a"}, {"messages": "b", "tools": ["a"]})),
    ],
)
def test_every_endpoints_prompt_counts_for_the_order(
    endpoint: str, fields: tuple[dict[str, Any], ...]
) -> None:
    assert names(plan(BOTH, endpoint, placed(*fields))) == [["r1"], ["r0"]]


@pytest.mark.parametrize(
    ("endpoint", "body", "once"),
    [
        (CHAT, {"temperature": 0}, True),
        (CHAT, {"temperature": 0.0, "tools": [{"type": "function"}]}, True),
        (COMPLETIONS, {"seed": 7, "n": 3}, True),
        (EMBEDDINGS, {"input": "a"}, True),
        (RESPONSES, {"temperature": 0, "tools": []}, True),
        (RESPONSES, {"temperature": 0, "tools": [{"type": "code_interpreter"}]}, False),
        (CHAT, {}, False),
        (CHAT, {"temperature": None, "seed": None}, False),
        (CHAT, {"temperature": 0.5}, False),
        (CHAT, {"temperature": "0"}, False),
        (CHAT, b'{"temperature": 0', False),
    ],
)
def test_one_run_answers_rows_that_are_the_same_and_deterministic(
    endpoint: str, body: dict[str, Any] | bytes, once: bool
) -> None:
    rows = placed(body, {"prompt": "z", "seed": 1}, body, body)
    planned = names(plan(Planner(prefix_order=False, identical_once=True), endpoint, rows))
    assert planned == ([["r0", "r2", "r3"], ["r1"]] if once else [["r0"], ["r1"], ["r2"], ["r3"]])
    apart = plan(Planner(prefix_order=False, identical_once=False), endpoint, rows)
    assert names(apart) == [["r0"], ["r1"], ["r2"], ["r3"]]


def test_bodies_that_differ_in_a_byte_are_other_requests() -> None:
    rows = placed(b'{"temperature": 0, "seed": 1}', b'{"temperature": 0,"seed": 1}')
    assert names(plan(BOTH, CHAT, rows)) == [["r0"], ["r1"]]


def test_twins_can_run_apart() -> None:
    (run,) = plan(BOTH, CHAT, placed(b'{"seed": 1}', b'{"seed": 1}', b'{"seed": 1}'))
    assert run.rows == 3
    rows = placed(b'{"seed": 1}', b'{"seed": 1}', b'{"seed": 1}')
    assert run.apart() == [Run(rows[1][0], 10), Run(rows[2][0], 20)]


@given(st.lists(st.sampled_from("aabbcd"), max_size=30), st.sets(st.integers(0, 29)))
def test_the_rows_that_are_left_keep_their_order(prompts: list[str], done: set[int]) -> None:
    """So a request under which the engine died is among the first to run again."""
    rows = placed(*({"prompt": prompt, "temperature": ord(prompt) % 2} for prompt in prompts))
    whole = [name for run in names(plan(BOTH, COMPLETIONS, rows)) for name in run]
    assert sorted(whole) == sorted(row.custom_id for row, _ in rows)
    left = [one for n, one in enumerate(rows) if n not in done]
    some = [name for run in names(plan(BOTH, COMPLETIONS, left)) for name in run]
    assert some == [name for name in whole if name in set(some)]
