"""The bodies of the calls: made-up prompts of a length, or those of a file."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"

_STREAMED = ("stream", "stream_options")

_TEXT = """
time year people way day man thing woman life child world school state family student group country problem hand part place
case week company system program question work number night point home water room mother area money story fact month lot
right study book eye job word business issue side kind head house service friend father power hour game line end member law
car city name team minute idea body back parent face others level office door health person art war history party result
change morning reason research girl guy moment air teacher force education
"""
_WORDS = _TEXT.split()
"""Common words, each of which is one token to most models."""


class PromptFileError(Exception):
    """The file of prompts cannot be used. The message names it and the line."""


def words(count: int, dice: random.Random) -> str:
    """Return a text of so many words."""
    return " ".join(dice.choices(_WORDS, k=max(count, 1)))


def request(path: str, prompt: str) -> dict[str, Any]:
    """Return what sends a prompt to an endpoint."""
    if path == CHAT:
        return {"messages": [{"role": "user", "content": prompt}]}
    return {"input" if path == EMBEDDINGS else "prompt": prompt}


def made_up(path: str, count: int, common: Mapping[str, Any], seed: int) -> Iterator[bytes]:
    """Yield bodies without end, each with another prompt of ``count`` words; the same for the same seed.

    Args:
        path: the endpoint.
        count: words.
        common: fields of each body.
        seed: of the dice.
    """
    dice = random.Random(seed)
    while True:
        yield encode({**common, **request(path, words(count, dice))})


def of_file(
    path: str, file: Path, common: Mapping[str, Any], over: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[bytes]:
    """Return bodies without end, from a file of prompts that begins again at its end.

    A line is a prompt; or a JSON object with ``prompt`` or ``messages``, or with a ``body`` as a batch has it. What a body
    says counts more than ``common``, except whether it streams.

    Args:
        path: the endpoint.
        file: its name.
        common: fields of each body.
        over: fields that count more than those of a line.

    Raises:
        PromptFileError: it cannot be read, or has no prompts.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PromptFileError(f"{file} cannot be read: {error}") from error
    streamed = {name: common[name] for name in _STREAMED if name in common}
    bodies = []
    for number, text in enumerate(lines, 1):
        if text.strip():
            line = _line(path, text, f"{file}:{number}")
            said = {name: value for name, value in line.items() if name not in _STREAMED}
            bodies.append(encode({**common, **said, **over, **streamed}))
    if not bodies:
        raise PromptFileError(f"{file} has no prompts")
    return itertools.cycle(bodies)


def _line(path: str, text: str, where: str) -> Mapping[str, Any]:
    if not text.lstrip().startswith("{"):
        return request(path, text)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise PromptFileError(f"{where} is not JSON: {error}") from error
    if isinstance(found.get("body"), dict):
        return dict(found["body"])
    if isinstance(found.get("messages"), Sequence) and path == CHAT:
        return {"messages": found["messages"]}
    if isinstance(found.get("prompt"), str):
        return request(path, found["prompt"])
    raise PromptFileError(f"{where} has no prompt, no messages for a chat, and no body")


def encode(body: Mapping[str, Any]) -> bytes:
    """Return a body as it is sent."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
