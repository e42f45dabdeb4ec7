"""Which of vLLM's parsers a model needs: by its type and by the marks in its chat template. Pure.

The template decides with the type, as one type has models that reason and models that do not: a parser of reasoning for
one that does not would hide its answer.
"""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """A family, and its parser.

    Attributes:
        family: its name, for people.
        parser: vLLM's name of the parser.
        types: how ``model_type`` in ``config.json`` may begin; empty: any.
        marks: texts that the chat template must all have.
    """

    family: str
    parser: str
    types: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


_QWEN3 = ("qwen3",)
_MISTRALS = ("mistral", "ministral", "mixtral", "pixtral")
_BAR = "\N{FULLWIDTH VERTICAL LINE}"
_R1 = ("</think>", f"<{_BAR}Assistant{_BAR}>")
_DEEPSEEK_CALLS = f"<{_BAR}tool▁calls▁begin{_BAR}>"

TOOLS = (
    Rule("gpt-oss", "openai", ("gpt_oss",)),
    Rule("Qwen3-Coder", "qwen3_coder", _QWEN3, ("<function=",)),
    Rule("GLM-4.5", "glm45", ("glm4_moe",), ("<arg_key>",)),
    Rule("Granite 4", "granite4", ("granitemoe",), ("<tool_call>",)),
    Rule("Seed-OSS", "seed_oss", ("seed_oss",), ("<seed:tool_call>",)),
    Rule("MiniMax-M2", "minimax_m2", ("minimax",), ("<minimax:tool_call>",)),
    Rule("Kimi K2", "kimi_k2", ("kimi",), ("<|tool_calls_section_begin|>",)),
    Rule("DeepSeek V3 and R1", "deepseek_v3", ("deepseek_v3",), (_DEEPSEEK_CALLS, "```json")),
    Rule("DeepSeek V3.1", "deepseek_v31", ("deepseek_v3",), (_DEEPSEEK_CALLS,)),
    Rule("Mistral", "mistral", _MISTRALS, ("[TOOL_CALLS]",)),
    Rule("Llama 4", "llama4_pythonic", ("llama4",), ("ipython",)),
    Rule("Llama 3", "llama3_json", ("llama", "mllama"), ("ipython", '"parameters"')),
    Rule("Granite 3", "granite", ("granite",), ("<|tool_call|>",)),
    Rule("Hermes, Qwen and others", "hermes", (), ("<tool_call>", '"arguments"')),
)
"""By the form in which a model writes its calls. The first that fits counts."""

REASONING = (
    Rule("gpt-oss", "openai_gptoss", ("gpt_oss",)),
    Rule("GLM-4.5", "glm45", ("glm4_moe",), ("<think>",)),
    Rule("Qwen3", "qwen3", _QWEN3, ("<think>",)),
    Rule("Seed-OSS", "seed_oss", ("seed_oss",), ("<seed:think>",)),
    Rule("MiniMax-M2", "minimax_m2", ("minimax",), ("<think>", "<minimax:tool_call>")),
    Rule("Kimi K2", "kimi_k2", ("kimi",), ("<think>",)),
    Rule("DeepSeek V3.1", "deepseek_v3", ("deepseek_v3",), ("<think>", "thinking")),
    Rule("DeepSeek R1 and its distillates", "deepseek_r1", (), _R1),
    Rule("Magistral", "mistral", _MISTRALS, ("[THINK]",)),
    Rule("Granite 3", "granite", ("granite",), ("Here is my thought process:",)),
    Rule("Olmo 3", "olmo3", ("olmo3",), ("<think>",)),
    Rule("QwQ", "deepseek_r1", ("qwen2",), ("<think>", "<|im_start|>assistant")),
)
"""By the marks that a model puts around its reasoning. The first that fits counts."""


def fitting(rules: tuple[Rule, ...], model_type: str, template: str) -> Rule | None:
    """Return the first rule that fits a model; None: no family is known.

    Args:
        rules: :data:`TOOLS` or :data:`REASONING`.
        model_type: from its ``config.json``.
        template: its chat template.
    """
    for rule in rules:
        if rule.types and not model_type.startswith(rule.types):
            continue
        if all(mark in template for mark in rule.marks):
            return rule
    return None
