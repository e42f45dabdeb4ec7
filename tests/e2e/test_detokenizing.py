"""Text of many tokens in one step is that of vLLM's own way, token by token, with the pinned vLLM and tokenizers."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from workers.devices.tiny_models import build_tiny_model
from workers.engines.vllm.detokenizing import in_lumps, install

pytestmark = pytest.mark.xdist_group("vllm")

TEXTS = [
    "the river turns a wheel",
    "Grüße aus Köln, 2 €",
    "水は低きに流れる",
    "👩‍🚀🌍 e\u0301\u200b",
    "\ufffd and a \ufffd",
]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from vllm.tokenizers import get_tokenizer

    cache = os.environ.get("PENSTOCK_TEST_CACHE")
    model = build_tiny_model(Path(cache) if cache else tmp_path_factory.mktemp("models"), "paced")
    return get_tokenizer(str(model))


@pytest.fixture
def one_by_one() -> Any:
    from vllm.v1.engine import detokenizer

    fast = detokenizer.FastIncrementalDetokenizer
    return fast.__base__ if hasattr(fast, "penstock_lumps") else fast


def request_of(prompt: list[int], **sampling: Any) -> Any:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreRequest

    params = SamplingParams(max_tokens=1000, **sampling)
    return EngineCoreRequest("r", prompt, None, params, None, 0.0, None, None, None)


def written(detokenizer: Any, lumps: list[list[int]], *, stopped: bool, delta: bool) -> tuple[str, list[int]]:
    """Return the whole text, as a reader of deltas or of the end puts it together, and the tokens."""
    text = ""
    for place, lump in enumerate(lumps):
        last = place == len(lumps) - 1
        assert detokenizer.update(list(lump), stopped and last) is None
        said = detokenizer.get_next_output_text(last, delta)
        text = text + said if delta else said
    return text, detokenizer.output_token_ids


def cut(dice: random.Random, ids: list[int]) -> list[list[int]]:
    """Cut tokens into lumps of 1 to 32."""
    lumps, at = [], 0
    while at < len(ids):
        size = dice.choice([1, 2, 3, 32])
        lumps.append(ids[at : at + size])
        at += size
    return lumps


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"skip_special_tokens": False},
        {"skip_special_tokens": False, "spaces_between_special_tokens": False},
        {"include_stop_str_in_output": True},
        {"stop": ["no such words"]},
    ],
    ids=str,
)
def test_the_text_is_the_same_wherever_the_lumps_end(
    tokenizer: Any, one_by_one: Any, sampling: dict[str, Any], delta: bool
) -> None:
    dice, lumped = random.Random(str(sampling)), in_lumps(one_by_one)
    texts = [tokenizer.encode(dice.choice(TEXTS) + dice.choice(TEXTS)) for _ in range(120)]
    noise = [[dice.randrange(len(tokenizer)) for _ in range(dice.randint(1, 60))] for _ in range(120)]
    bytes_ = [[dice.randrange(300) for _ in range(dice.randint(1, 60))] for _ in range(120)]
    for whole in [*texts, *noise, *bytes_]:
        ids = whole[: dice.randint(1, len(whole))]  # may end within a character
        request, stopped = request_of(tokenizer.encode(dice.choice(TEXTS)), **sampling), dice.random() < 0.3
        lumps = cut(dice, ids)
        expected = written(one_by_one(tokenizer, request), lumps, stopped=stopped, delta=False)
        assert written(lumped(tokenizer, request), lumps, stopped=stopped, delta=delta) == expected, lumps


def test_a_lump_takes_one_step(tokenizer: Any, one_by_one: Any) -> None:
    detokenizer = in_lumps(one_by_one)(tokenizer, request_of([300]))
    detokenizer._protected_step = None  # token by token
    ids = tokenizer.encode("the river turns a wheel and its water goes on")
    detokenizer.update(ids, False)
    assert detokenizer.get_next_output_text(True, False) == tokenizer.decode(ids, skip_special_tokens=True)


def test_after_an_error_it_goes_on_token_by_token(tokenizer: Any, one_by_one: Any) -> None:
    """As vLLM does, which knows which errors of a tokenizer are none of the request's."""
    ids = tokenizer.encode("the river turns a wheel")
    wrong = [*ids[:3], 1 << 40, *ids[3:]]  # vLLM reports it, and goes on
    request, lumps = request_of([300]), [ids, wrong, ids]
    expected = written(one_by_one(tokenizer, request), lumps, stopped=False, delta=False)
    assert written(in_lumps(one_by_one)(tokenizer, request), lumps, stopped=False, delta=True) == expected


def test_vllm_uses_it(tokenizer: Any) -> None:
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer

    assert install()
    assert install()  # again: nothing happens
    made = IncrementalDetokenizer.from_new_request(tokenizer, request_of([300]))
    assert made.penstock_lumps
