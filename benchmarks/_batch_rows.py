"""Rows of batches for the benchmarks: alone, with prefixes that several share, and with rows that are there twice."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workers.devices.tiny_tokenizer import WORDS

QUESTIONS = 5
"""Rows that share a document."""

DOCUMENT_WORDS = 1000
REPEATED = 0.3
"""The share of rows that repeat an earlier one."""


def plain(count: int, seed: int) -> list[tuple[str, int]]:
    """Return prompts that all differ, of 32 to 128 words, each with its 32 to 128 tokens of output."""
    dice = random.Random(seed)
    return [
        (f"Row {n}: " + " ".join(dice.choices(WORDS, k=dice.randint(32, 128))), dice.randint(32, 128))
        for n in range(count)
    ]


def documents(count: int, seed: int) -> list[tuple[str, int]]:
    """Return several questions to each of many documents of 1,000 words, all in random order."""
    dice = random.Random(seed)
    found = []
    for document in range(-(-count // QUESTIONS)):
        text = f"Document {document}: " + " ".join(dice.choices(WORDS, k=DOCUMENT_WORDS))
        found += [
            (f"{text}. Question {n}: {' '.join(dice.choices(WORDS, k=12))}?", dice.randint(32, 128))
            for n in range(QUESTIONS)
        ]
    dice.shuffle(found)
    return found[:count]


def repeated(count: int, seed: int) -> list[tuple[str, int]]:
    """Return rows of which a share are there twice, in random order."""
    again = int(count * REPEATED)
    found, dice = plain(count - again, seed), random.Random(seed)
    found += dice.sample(found, again)
    dice.shuffle(found)
    return found


def body(model: str, prompt: str, tokens: int) -> dict[str, Any]:
    """Return a greedy request that generates exactly ``tokens`` tokens."""
    messages = [{"role": "user", "content": prompt}]
    fixed = {"model": model, "messages": messages, "max_tokens": tokens}
    return fixed | {"temperature": 0, "ignore_eos": True}


def write(path: Path, model: str, rows: Iterable[tuple[str, int]]) -> None:
    """Write a batch's input file."""
    with path.open("w") as out:
        for n, (prompt, tokens) in enumerate(rows):
            line = {"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions"}
            out.write(json.dumps(line | {"body": body(model, prompt, tokens)}) + "\n")
