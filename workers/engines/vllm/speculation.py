"""Speculative decoding as a setting: from its words to vLLM's configuration. Imports no vLLM."""

from __future__ import annotations

import json

NGRAM = "ngram"
"""Guesses what followed the same tokens before, in the prompt and in the answer so far. Costs no second model."""

_TOKENS = {NGRAM: 4}
_DRAFT_TOKENS = 3
_MOST_TOKENS = 32
_LOOK_BACK = 4
"""Most tokens that n-gram compares with earlier ones."""


def speculative_config(speculation: str) -> str:
    """Return vLLM's ``--speculative-config`` for a value of the setting.

    Args:
        speculation: ``ngram``, or a draft model: a folder or a hub name. ``:N`` at its end is the number of tokens that are
            guessed at once.

    Raises:
        ValueError: the number is not 1 to 32, or there is no name.
    """
    name, tokens = _read(speculation)
    own: dict[str, str | int] = {"method": "draft_model", "model": name}
    if name == NGRAM:
        own = {"method": NGRAM, "prompt_lookup_max": _LOOK_BACK, "prompt_lookup_min": 1}
    return json.dumps({**own, "num_speculative_tokens": tokens})


def draft_model(speculation: str | None) -> str | None:
    """Return the draft model that a value of the setting names; None: it needs none."""
    name = NGRAM if speculation is None else _read(speculation)[0]
    return None if name == NGRAM else name


def _read(speculation: str) -> tuple[str, int]:
    name, colon, said = speculation.rpartition(":")
    if not (colon and said.isdigit()):
        name, said = speculation, ""
    tokens = int(said) if said else _TOKENS.get(name, _DRAFT_TOKENS)
    if not name or not 1 <= tokens <= _MOST_TOKENS:
        raise ValueError(
            f"{speculation!r}: write `ngram` or a draft model, with 1 to {_MOST_TOKENS} tokens as `ngram:5`"
        )
    return name, tokens
