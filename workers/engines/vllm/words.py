"""Made-up tokens: which ones an engine may choose that computes nothing. The same prompt gets the same text. Pure."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence

_WORD = re.compile(r"[Ġ▁ ][A-Za-z]{2,}\Z")
"""A whole word with the space before it, as byte-level BPE, SentencePiece and tiktoken write it."""

_ENOUGH = 16
_MOST = 4096
_STRIDE = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: Fibonacci hashing, Knuth, TAOCP 6.4
_MASK = (1 << 64) - 1


def palette(vocabulary: Mapping[str, int], special: Iterable[int]) -> list[int]:
    """Return the tokens that texts are made of, in the order of their ids: words, if the vocabulary has enough.

    Args:
        vocabulary: ids by token, as the tokenizer writes tokens.
        special: ids that no text may contain, such as the end of a text.
    """
    never = set(special)
    plain = {token: at for token, at in vocabulary.items() if at not in never}
    words = sorted(at for token, at in plain.items() if _WORD.match(token))
    return words[:_MOST] if len(words) >= _ENOUGH else sorted(plain.values())[:_MOST]


def seed_of(prompt: Sequence[int], *more: int) -> int:
    """Return a number of 64 bits that depends on every token of the prompt, and on ``more``; the same in every process."""
    hashed = hashlib.blake2b(array("q", prompt).tobytes(), digest_size=8)
    hashed.update(array("q", more).tobytes())
    return int.from_bytes(hashed.digest(), "little")


def pick(seed: int, at: int, count: int) -> int:
    """Return a number from 0 up to ``count``: the choice of the token at this place of the text."""
    mixed = ((seed ^ at) * _STRIDE) & _MASK
    return (mixed >> 32) % count
