"""Parsers by family: from a model's type and the marks of its chat template."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from workers.engines.settings import VllmSettings
from workers.engines.vllm.families import REASONING, TOOLS, Rule, fitting
from workers.engines.vllm.speculation import speculative_config
from workers.settings import WorkerSettings

HERMES = '<|im_start|>assistant <tool_call>{"name": <f>, "arguments": <json>}</tool_call>'
BAR = "\N{FULLWIDTH VERTICAL LINE}"
R1 = f"{{{{content.split('</think>')}}}}<{BAR}Assistant{BAR}><think>"

MODELS = {
    "Qwen2.5": ("qwen2", HERMES, "hermes", None),
    "Qwen3": ("qwen3", f"{HERMES}<think>", "hermes", "qwen3"),
    "Qwen3-Instruct-2507": ("qwen3_moe", HERMES, "hermes", None),
    "Qwen3-Coder": ("qwen3_moe", f"{HERMES}<function=x>", "qwen3_coder", None),
    "QwQ": ("qwen2", f"{HERMES}<think>", "hermes", "deepseek_r1"),
    "R1-Distill-Llama": ("llama", R1, None, "deepseek_r1"),
    "R1-Distill-Qwen, earlier": ("qwen2", R1.removesuffix("<think>"), None, "deepseek_r1"),
    "DeepSeek V3": (
        "deepseek_v3",
        f"<{BAR}Assistant{BAR}><{BAR}tool▁calls▁begin{BAR}>```json",
        "deepseek_v3",
        None,
    ),
    "R1": ("deepseek_v3", f"{R1}<{BAR}tool▁calls▁begin{BAR}>```json", "deepseek_v3", "deepseek_r1"),
    "V3.1": ("deepseek_v3", f"{R1} thinking <{BAR}tool▁calls▁begin{BAR}>", "deepseek_v31", "deepseek_v3"),
    "gpt-oss": ("gpt_oss", "", "openai", "openai_gptoss"),
    "GLM-4.5": ("glm4_moe", "<think><tool_call><arg_key>", "glm45", "glm45"),
    "Llama 3.1": ("llama", 'Environment: ipython {"name": f, "parameters": d}', "llama3_json", None),
    "Llama 4": ("llama4", "ipython", "llama4_pythonic", None),
    "Mistral 0.3": ("mistral", "[TOOL_CALLS]", "mistral", None),
    "Magistral": ("mistral3", "[THINK][TOOL_CALLS]", "mistral", "mistral"),
    "Mistral 0.1": ("mistral", "[INST]", None, None),
    "Granite 3.2": ("granite", "Here is my thought process: <|tool_call|>", "granite", "granite"),
    "Granite 4": ("granitemoehybrid", HERMES, "granite4", None),
    "Llama 2": ("llama", "[INST] <<SYS>>", None, None),
}


def parser(rules: tuple[Rule, ...], model_type: str, template: str) -> str | None:
    rule = fitting(rules, model_type, template)
    return None if rule is None else rule.parser


@pytest.mark.parametrize("name", MODELS)
def test_known_models_have_their_parsers(name: str) -> None:
    model_type, template, tools, reasoning = MODELS[name]
    assert (parser(TOOLS, model_type, template), parser(REASONING, model_type, template)) == (
        tools,
        reasoning,
    )


@pytest.mark.parametrize(("rules", "package"), [(TOOLS, "tool_parsers"), (REASONING, "reasoning")])
def test_the_pinned_vllm_has_every_parser(rules: tuple[Rule, ...], package: str) -> None:
    found = importlib.util.find_spec("vllm")
    assert found is not None
    assert found.origin is not None
    registered = (Path(found.origin).parent / package / "__init__.py").read_text()
    assert not [rule for rule in rules if f'"{rule.parser}": (' not in registered]


def test_settings_become_flags() -> None:
    settings = VllmSettings("m", tool_call_parser="hermes", reasoning_parser="qwen3", speculation="ngram:5")
    argv = settings.argv()
    assert {"--enable-auto-tool-choice", "--tool-call-parser=hermes", "--reasoning-parser=qwen3"} <= set(argv)
    (config,) = [json.loads(arg.partition("=")[2]) for arg in argv if arg.startswith("--speculative-config=")]
    assert (config["method"], config["num_speculative_tokens"]) == ("ngram", 5)
    quiet = VllmSettings("m", tool_call_parser="auto", reasoning_parser="none").argv()
    assert not [arg for arg in quiet if "parser" in arg or "speculative" in arg]


@pytest.mark.parametrize(
    ("said", "model", "tokens"),
    [("org/draft", "org/draft", 3), ("./d:7", "./d", 7), ("C:draft", "C:draft", 3)],
)
def test_another_word_is_a_draft_model(said: str, model: str, tokens: int) -> None:
    config = json.loads(speculative_config(said))
    assert config == {"method": "draft_model", "model": model, "num_speculative_tokens": tokens}


@pytest.mark.parametrize("said", ["", ":4", "ngram:0", "ngram:33"])
def test_a_wrong_speculation_stops_the_start(said: str) -> None:
    with pytest.raises(ValidationError, match="1 to 32 tokens"):
        WorkerSettings(speculation=said)
