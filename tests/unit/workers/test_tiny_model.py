from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jinja2
import pytest

from workers.devices import tiny_weights
from workers.devices.tiny_models import (
    CHAT_TEMPLATE,
    ENCODERS,
    SIZES,
    SPEECH,
    TINY_MODELS,
    VISION,
    build_tiny_model,
)
from workers.devices.tiny_tokenizer import WORDS, train
from workers.engines.settings import VllmSettings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_builds_once_even_when_asked_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(lambda _: build_tiny_model(tmp_path, "nano"), range(3)))
    (path,) = paths
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    before = {entry.name: entry.stat().st_mtime_ns for entry in path.iterdir()}
    assert build_tiny_model(tmp_path, "nano") == path
    assert {entry.name: entry.stat().st_mtime_ns for entry in path.iterdir()} == before
    assert json.loads((path / "config.json").read_text())["vocab_size"] == SIZES["nano"].vocab


def test_another_recipe_is_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build_tiny_model(tmp_path / "models", "nano")
    changed = tmp_path / "tiny_weights.py"
    changed.write_text(Path(tiny_weights.__file__).read_text() + "# another\n")
    monkeypatch.setattr(tiny_weights, "__file__", str(changed))
    after = build_tiny_model(tmp_path / "models", "nano")
    assert after != before
    assert {entry.name for entry in (tmp_path / "models").iterdir()} == {before.name, after.name}


@pytest.mark.parametrize("size", ENCODERS)
def test_an_encoder_has_its_labels(tmp_path: Path, size: str) -> None:
    path = build_tiny_model(tmp_path, size)
    config = json.loads((path / "config.json").read_text())
    assert tuple(config["id2label"].values()) == ENCODERS[size].labels
    assert (
        config["hidden_size"] / config["num_attention_heads"] == 32
    )  # the smallest that vLLM's kernels take
    assert build_tiny_model(tmp_path, size) == path


def test_a_whisper_is_small_and_the_same_every_time(tmp_path: Path) -> None:
    first, second = (build_tiny_model(tmp_path / name, "whisper") for name in "ab")
    assert sum(file.stat().st_size for file in first.iterdir()) < 8_000_000
    weights = [(one / "model.safetensors").read_bytes() for one in (first, second)]
    assert weights[0] == weights[1]
    assert json.loads((first / "config.json").read_text())["model_type"] == "whisper"


def test_a_model_that_sees_is_small_and_the_same_every_time(tmp_path: Path) -> None:
    first, second = (build_tiny_model(tmp_path / name, "vision") for name in "ab")
    assert sum(file.stat().st_size for file in first.iterdir()) < 20_000_000
    weights = [(one / "model.safetensors").read_bytes() for one in (first, second)]
    assert weights[0] == weights[1]
    assert json.loads((first / "config.json").read_text())["model_type"] == "idefics3"
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
        (first / "chat_template.jinja").read_text()
    )
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    said = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A gate."}]
    assert template.render(messages=said) == (
        "<|im_start|>user\n<image>What?<|im_end|>\n<|im_start|>assistant\nA gate.<|im_end|>\n"
    )


def test_every_name_has_a_size() -> None:
    assert set(TINY_MODELS.values()) <= {*SIZES, *ENCODERS, *SPEECH, *VISION}


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("tiny-random", {"--tool-call-parser=hermes"}),
        ("tiny-vision", {"--tool-call-parser=hermes"}),
        ("tiny-embed", {"--runner=pooling", "--convert=embed"}),
        ("tiny-rerank", {"--runner=pooling"}),
        ("tiny-classify", {"--runner=pooling"}),
    ],
)
def test_a_models_name_says_how_it_runs(tmp_path: Path, name: str, flags: set[str]) -> None:
    argv = VllmSettings.tiny(tmp_path, name=name).argv()
    special = {flag for flag in argv if flag.startswith(("--tool-call-parser", "--runner", "--convert"))}
    assert special == flags
    assert argv[argv.index("--served-model-name") + 1] == name


def test_every_word_is_one_token() -> None:
    tokenizer = train(SIZES["tiny"].vocab)
    for word in WORDS:
        assert len(tokenizer.encode(f" {word}").ids) == len(tokenizer.encode(word.capitalize()).ids) == 1


def test_unknown_size(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        build_tiny_model(tmp_path, "huge")


def test_tokenizer_reads_back_any_text() -> None:
    tokenizer = train(SIZES["tiny"].vocab)
    for text in ("The river turns the turbine.", "Zürich 東京 🙂\n\tx", '{"a": [1, 2]}'):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode("The river turns the turbine").ids) < 12
    assert [tokenizer.token_to_id(name) for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")] == [
        0,
        1,
        2,
    ]


def test_chat_template() -> None:
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}],
        },
        {"role": "tool", "content": "42"},
    ]
    plain = template.render(messages=messages, add_generation_prompt=True)
    assert plain == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call><|im_end|>\n'
        "<|im_start|>tool\n42<|im_end|>\n<|im_start|>assistant\n"
    )
    with_tools = template.render(messages=messages, tools=[{"name": "f"}], add_generation_prompt=False)
    assert with_tools.startswith("<|im_start|>system\nBe brief.\n\nYou may call these functions")
    assert with_tools.count("Be brief.") == 1
