"""What a paced engine answers: tokens, log-probabilities and vectors, made up from the prompt alone.

The same prompt gets the same answer in every run, whatever else is in the batch. A grammar is kept, and so is the request's
list of allowed tokens; other sampling parameters change nothing. A text ends at the length that its request asks for, or
where its grammar ends it. Imported in the engine's process only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.v1.outputs import LogprobsLists, LogprobsTensors

from workers.engines.vllm.words import palette, pick, seed_of

_CHILD = re.compile(r"(\d+)_")
"""How the ids of the choices of one request begin if it asks for several."""

_SIGNS = ('"', "}", "]", ":", ",")
"""Tokens that move a JSON text on. Without a preference for them a string would hardly ever end."""

_LIKELY = -0.25
"""The log-probability of every chosen token."""

_SIGN_SALT = 1 << 40
_WORDS_A_STRING = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """What the answer to one request follows from.

    Attributes:
        seed: made of its prompt.
        words: the tokens to choose from.
        logprobs: how many log-probabilities are wanted beside the chosen token's; None: not even that one.
        scored: the tokens whose log-probabilities are wanted, rather than the likeliest ones'.
        prompt: its tokens, if log-probabilities of them are wanted.
        prompt_logprobs: how many beside the token's own.
    """

    seed: int
    words: Sequence[int]
    logprobs: int | None = None
    scored: Sequence[int] = ()
    prompt: Sequence[int] = ()
    prompt_logprobs: int = 0


class Tokens:
    """Makes answers up with the tokens of one model's vocabulary."""

    def __init__(self, model_config: Any) -> None:
        self._size = model_config.get_vocab_size()
        self._hidden = model_config.get_hidden_size()
        self._end: int | None = None
        self._special: list[int] = []
        self._signs: np.ndarray[Any, Any] = np.array([], dtype=np.int64)
        words = list(range(self._size))
        if not model_config.skip_tokenizer_init:
            from vllm.tokenizers import cached_tokenizer_from_config

            tokenizer = cached_tokenizer_from_config(model_config)
            vocabulary = tokenizer.get_vocab()
            self._end, self._special = tokenizer.eos_token_id, list(tokenizer.all_special_ids)
            words = palette(vocabulary, self._special)
            self._signs = np.array(sorted(vocabulary[sign] for sign in _SIGNS if sign in vocabulary))
        self._words: Sequence[int] = words

    def answer(self, request: Any) -> Answer:
        """Return what the answer to a new request follows from. ``request``: vLLM's ``NewRequestData``."""
        prompt, params = request.prompt_token_ids or (), request.sampling_params
        if params is None:
            return Answer(seed_of(prompt), ())
        child = _CHILD.match(request.req_id)
        seed = seed_of(prompt, params.seed or 0, int(child[1]) if child else 0)
        wants_prompt = params.prompt_logprobs is not None
        return Answer(
            seed,
            params.allowed_token_ids or self._words,
            params.num_logprobs,
            params.logprob_token_ids or (),
            prompt if wants_prompt else (),
            self._bounded(params.prompt_logprobs or 0),
        )

    def choose(self, answer: Answer, at: int) -> int:
        """Return the token at this place of an answer."""
        return answer.words[pick(answer.seed, at, len(answer.words))]

    def choose_allowed(self, answer: Answer, at: int, bitmask: Any) -> int:
        """Return the token at this place of an answer that a grammar restricts: one that ends the text, if it may.

        Args:
            bitmask: a bit for each token of the vocabulary, in numbers of 32 bits; at least one is set.
        """
        allowed = np.unpackbits(bitmask.view(np.uint8), bitorder="little")[: self._size].astype(bool)
        if self._end is not None and allowed[self._end] and (at or allowed.sum() == 1):
            return self._end
        plain = allowed.copy()
        plain[self._special] = False
        words = np.asarray(answer.words)
        words, signs = words[plain[words]], self._signs[plain[self._signs]]
        if signs.size and not (words.size and pick(answer.seed ^ _SIGN_SALT, at, _WORDS_A_STRING)):
            chosen = signs
        else:
            chosen = next(
                some for some in (words, np.flatnonzero(plain), np.flatnonzero(allowed)) if some.size
            )
        return int(chosen[pick(answer.seed, at, chosen.size)])

    def logprobs(self, answers: Sequence[Answer], tokens: Sequence[Sequence[int]]) -> LogprobsLists | None:
        """Return the log-probabilities of one step.

        Args:
            answers: in the order of the batch.
            tokens: each one's token of this step, if it got one.

        Returns:
            A row for each answer; None if none wants any.
        """
        wanted = [
            len(one.scored) or self._bounded(one.logprobs) for one in answers if one.logprobs is not None
        ]
        if not wanted:
            return None
        width = max(wanted)
        ids = [
            self._row(answer, chosen[0] if chosen else 0, width)
            for answer, chosen in zip(answers, tokens, strict=True)
        ]
        ranks: Any = np.ones(len(ids), dtype=np.int64)
        return LogprobsLists(np.array(ids), np.tile(_values(width), (len(ids), 1)), ranks)

    def _bounded(self, wanted: int) -> int:
        size = int(self._size)
        return size if wanted < 0 else min(wanted, size)

    def _row(self, answer: Answer, chosen: int, width: int) -> list[int]:
        """Return the chosen token, then those of the ranks from 1, or those that were asked for."""
        if answer.scored:
            others = list(answer.scored)
            return [chosen, *others, *[chosen] * (width - len(others))]
        others = [(chosen + step) % self._size for step in range(max(width, 1))]
        return [chosen, *others[:width]]

    def prompt_logprobs(self, answer: Answer) -> Any:
        """Return the log-probabilities of a prompt's tokens but the first, which has none; None if none are wanted."""
        if len(answer.prompt) < 2:
            return None
        width = answer.prompt_logprobs
        rows = [self._row(Answer(0, ()), token, width) for token in answer.prompt[1:]]
        values = torch.from_numpy(np.tile(_values(width), (len(rows), 1)))
        return LogprobsTensors(torch.tensor(rows), values, torch.ones(len(rows), dtype=torch.int64))

    def vector(self, answer: Answer, params: Any) -> Any:
        """Return the embedding of a prompt: of length 1, and as long as the model's or as ``params`` want it."""
        drawn = torch.Generator().manual_seed(answer.seed & 0x7FFF_FFFF_FFFF_FFFF)
        numbers = torch.randn(params.dimensions or self._hidden, generator=drawn)
        return numbers / numbers.norm()


def _values(width: int) -> Any:
    """Return the log-probabilities of the chosen token, and of the ranks from 1."""
    ranks: Any = np.arange(width, dtype=np.float32)
    return np.concatenate([[np.float32(_LIKELY)], np.float32(_LIKELY) - 2 * ranks]).astype(np.float32)
