"""What the simulated engine answers where it generates no text: vectors, scores, classes, tokens. In vLLM's shapes.

A token is four bytes of text, so that texts of tokens are the texts again.
"""

from __future__ import annotations

import base64 as b64
import hashlib
import itertools
import struct
import time
from collections.abc import Callable
from typing import Any

import msgspec

from jobs.endpoints import (
    CLASSIFY,
    COUNT_TOKENS,
    DETOKENIZE,
    EMBEDDINGS,
    ENDPOINTS,
    POOLING,
    RERANK,
    SCORE,
    TOKENIZE,
)
from jobs.model import Usage
from workers.engines.settings import SimulatedSettings
from workers.engines.simulated.request import inputs_of, token_count

_LABELS = ("sad", "fine", "glad")
_BYTES_PER_TOKEN = 4

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class RefusedError(Exception):
    """The request is one that vLLM refuses. The message says why."""


class Pooled:
    """Answers requests.

    Args:
        settings: the engine's.
    """

    def __init__(self, settings: SimulatedSettings) -> None:
        self._model, self._seed = settings.model, b"%d" % settings.seed
        self._dim, self._limit = settings.embedding_dim, settings.max_model_len
        self._makers: dict[str, Callable[[dict[str, Any]], tuple[dict[str, Any], int | None]]] = {
            EMBEDDINGS: self._embed,
            POOLING: self._pool,
            CLASSIFY: self._classify,
            RERANK: self._rerank,
            SCORE: self._score,
            TOKENIZE: self._tokenize,
            DETOKENIZE: self._detokenize,
            COUNT_TOKENS: self._count,
        }

    def answers(self, endpoint: str) -> bool:
        """Return whether the endpoint is one of these."""
        return endpoint in self._makers

    def answer(self, endpoint: str, request_id: str, body: bytes) -> tuple[bytes, Usage | None]:
        """Answer a request.

        Returns:
            The body of the response, and the tokens that the model read; None: the tokenizer alone worked.

        Raises:
            RefusedError: it is refused.
            msgspec.DecodeError: it is no JSON object.
        """
        made, tokens = self._makers[endpoint](_decode(body))
        if tokens is None:
            return _encode(made), None
        ident: dict[str, Any] = {"id": ENDPOINTS[endpoint].response_id.format(request_id)}
        if endpoint not in {EMBEDDINGS, RERANK}:
            ident |= {"object": "list", "created": int(time.time())}
        usage: dict[str, Any] = {"prompt_tokens": tokens, "total_tokens": tokens}
        if endpoint in {SCORE, CLASSIFY, POOLING}:
            usage |= {
                "completion_tokens": 0,
                "prompt_tokens_details": None,
                "completion_tokens_details": None,
            }
        return _encode({**ident, "model": self._model, **made, "usage": usage}), Usage(tokens, 0, tokens)

    def _embed(self, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        return self._vectors(body, "embedding", "embedding")

    def _pool(self, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        return self._vectors(body, "pooling", "data")

    def _vectors(self, body: dict[str, Any], kind: str, member: str) -> tuple[dict[str, Any], int]:
        """Return a vector for each input; base64 holds little-endian 32-bit floats, as OpenAI's does."""
        items, tokens = self._inputs(body)
        data = []
        for index, item in enumerate(items):
            value: Any = self._vector(_encode(item))
            if body.get("encoding_format") == "base64":
                value = b64.b64encode(struct.pack(f"<{len(value)}f", *value)).decode()
            data.append({"index": index, "object": kind, member: value})
        return {"object": "list", "data": data}, tokens

    def _classify(self, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        items, tokens = self._inputs(body)
        data = []
        for index, item in enumerate(items):
            parts = [self._chance(_encode(item), label.encode()) for label in _LABELS]
            probs = [part / sum(parts) for part in parts]
            label = _LABELS[probs.index(max(probs))]
            data.append({"index": index, "label": label, "probs": probs, "num_classes": len(probs)})
        return {"data": data}, tokens

    def _rerank(self, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        documents = _several(body, "documents")
        scores, tokens = self._scores(_several(body, "query"), documents)
        results: list[dict[str, Any]] = [
            {"index": index, "document": {"text": text, "multi_modal": None}, "relevance_score": score}
            for index, (text, score) in enumerate(zip(documents, scores, strict=True))
        ]
        results.sort(key=lambda one: -float(one["relevance_score"]))
        return {"results": results[: body.get("top_n") or len(results)]}, tokens

    def _score(self, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        first, second = next(
            (pair for pair in ENDPOINTS[SCORE].pairs if body.get(pair[0]) and body.get(pair[1])), ("", "")
        )
        scores, tokens = self._scores(_several(body, first), _several(body, second))
        data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)]
        return {"data": data}, tokens

    def _scores(self, queries: list[Any], documents: list[Any]) -> tuple[list[float], int]:
        if len(queries) not in {1, len(documents)}:
            raise RefusedError("Input lengths must be either 1:1, 1:N or N:N")
        pairs = list(zip(itertools.cycle(queries), documents, strict=False))
        tokens = sum(self._fitting(_encode(one) + _encode(other)) for one, other in pairs)
        return [self._chance(_encode(one), _encode(other)) for one, other in pairs], tokens

    def _tokenize(self, body: dict[str, Any]) -> tuple[dict[str, Any], None]:
        prompt = body.get("prompt")
        text = prompt.encode() if isinstance(prompt, str) else _encode(body.get("messages"))
        pieces = [text[at : at + _BYTES_PER_TOKEN] for at in range(0, len(text), _BYTES_PER_TOKEN)]
        tokens = [int.from_bytes(b"\1" + piece) for piece in pieces]  # the 1 keeps zeros in front
        names = (
            [piece.decode(errors="replace") for piece in pieces] if body.get("return_token_strs") else None
        )
        return {
            "count": len(tokens),
            "max_model_len": self._limit,
            "tokens": tokens,
            "token_strs": names,
        }, None

    def _detokenize(self, body: dict[str, Any]) -> tuple[dict[str, Any], None]:
        tokens = body.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(one, int) and one >= 0 for one in tokens):
            raise RefusedError("tokens must be a list of token ids")
        pieces = (one.to_bytes((one.bit_length() + 7) // 8)[1:] for one in tokens)
        return {"prompt": b"".join(pieces).decode(errors="replace")}, None

    def _count(self, body: dict[str, Any]) -> tuple[dict[str, Any], None]:
        said = [body[field] for field in ("system", "messages", "tools") if body.get(field)]
        tokens = token_count(b"".join(map(_encode, said)))
        return {"input_tokens": tokens, "context_management": {"original_input_tokens": tokens}}, None

    def _inputs(self, body: dict[str, Any]) -> tuple[list[Any], int]:
        given = body.get("messages") or body.get("input")
        if not isinstance(given, str | list) or not given:
            raise RefusedError("input must be a string or a list that is not empty")
        items = [given] if body.get("messages") else inputs_of(given)
        return items, sum(self._fitting(_encode(item)) for item in items)

    def _fitting(self, text: bytes) -> int:
        """Count the tokens of what the model reads at once."""
        tokens = token_count(text)
        if tokens > self._limit:
            raise RefusedError(f"This model's maximum context length is {self._limit} tokens.")
        return tokens

    def _vector(self, item: bytes) -> list[float]:
        """Return a unit vector that depends on the input and the seed only."""
        raw = hashlib.shake_128(item + self._seed).digest(2 * self._dim)
        values = [number / 32768.0 for number in struct.unpack(f"<{self._dim}h", raw)]
        length = sum(value * value for value in values) ** 0.5 or 1.0
        return [value / length for value in values]

    def _chance(self, one: bytes, other: bytes) -> float:
        """Return a number between 0 and 1 that depends on two texts and the seed only."""
        digest = hashlib.blake2b(one + b"\n" + other + self._seed, digest_size=4).digest()
        return (int.from_bytes(digest) + 1) / (2**32 + 1)


def _several(body: dict[str, Any], field: str) -> list[Any]:
    value = body.get(field)
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(one, str | dict) for one in texts):
        raise RefusedError(f"{field or 'text_1'} must be a text or a list of texts that is not empty")
    return texts
