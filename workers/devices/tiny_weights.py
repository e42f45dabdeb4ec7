"""The weights of the tiny models: random, but for a grammar of words, sentences and an end.

Four dimensions of the residual stream hold where in a sentence a token leaves the text; no layer writes to them. The
output layer reads them as a bias, so that after a word comes a word or a full stop, after a full stop a capitalised
word or the end, and after a line break a capitalised word. Which one it is stays random, and depends on the whole text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workers.devices.tiny_tokenizer import END, SPECIAL, WORDS


@dataclass(frozen=True, slots=True)
class TinySize:
    """One size. Sizes are counts, ``max_len`` is in tokens.

    Attributes:
        alike: every layer has the weights of the first.
        quotes: a quotation mark is as likely as a full stop, so that texts in JSON end, such as arguments of a tool.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int = 4096
    max_len: int = 4096
    alike: bool = False
    quotes: bool = False


_ALWAYS, _SENTENCE, _START, _ENDED = range(4)
"""The dimensions: one that is always set, and those that the last token sets: a full stop, a line break, the end."""

_GRAMMAR = 4
_LEVEL = 1.5
"""What a set dimension is after the last norm, about."""

_NEVER = 30.0
"""A logit that no random part makes up for."""

_SPREAD = 4.0
"""Standard deviation of a logit's random part. The largest of those of all words is about three times as much."""

_FULL_STOP = 8.5
"""Logit of a full stop after a word, beside its random part: sentences of a dozen words, more or less."""

_FINISH = 11.5
"""Logit of the end after a full stop, beside its random part: answers of three or four sentences."""

_QUIET = 0.1
"""How much a full stop or a line break says of itself, beside the grammar: what follows depends on the text before it."""


def make(size: TinySize, vocabulary: dict[str, int]) -> dict[str, Any]:
    """Return a Llama's tensors by name, the same every time.

    Args:
        vocabulary: ids of byte-level BPE tokens.
    """
    import torch

    gen = torch.Generator().manual_seed(20240601)

    def normal(*shape: int, std: float) -> Any:
        return torch.randn(*shape, generator=gen) * std

    def stored(weight: Any) -> Any:
        return weight.to(torch.bfloat16).contiguous()

    head_dim = size.hidden // size.heads
    std = 1.2 / size.hidden**0.5
    embeddings = normal(size.vocab, size.hidden, std=1.0)
    output = normal(size.vocab, size.hidden, std=_SPREAD / size.hidden**0.5)
    output[: len(SPECIAL) + 256] *= 0.1  # lone bytes: where a schema allows any text, words are likelier
    _add_grammar(embeddings, output, vocabulary, _growth(size))
    if size.quotes:
        output[vocabulary['"']] = output[vocabulary["."]]
    out: dict[str, Any] = {
        "model.embed_tokens.weight": stored(embeddings),
        "model.norm.weight": torch.ones(size.hidden, dtype=torch.bfloat16),
        "lm_head.weight": stored(output),
    }
    for layer in range(size.layers):
        at = f"model.layers.{layer}."
        if layer and size.alike:
            of = "model.layers.0."
            out |= {name.replace(of, at): one.clone() for name, one in out.items() if name.startswith(of)}
            continue
        attention = normal(size.hidden, size.heads * head_dim, std=std)
        feed_forward = normal(size.hidden, size.intermediate, std=std)
        attention[:_GRAMMAR] = feed_forward[:_GRAMMAR] = 0.0
        out[at + "self_attn.q_proj.weight"] = stored(normal(size.heads * head_dim, size.hidden, std=std))
        out[at + "self_attn.k_proj.weight"] = stored(normal(size.kv_heads * head_dim, size.hidden, std=std))
        out[at + "self_attn.v_proj.weight"] = stored(normal(size.kv_heads * head_dim, size.hidden, std=std))
        out[at + "self_attn.o_proj.weight"] = stored(attention)
        out[at + "mlp.gate_proj.weight"] = stored(normal(size.intermediate, size.hidden, std=std))
        out[at + "mlp.up_proj.weight"] = stored(normal(size.intermediate, size.hidden, std=std))
        out[at + "mlp.down_proj.weight"] = stored(feed_forward)
        out[at + "input_layernorm.weight"] = torch.ones(size.hidden, dtype=torch.bfloat16)
        out[at + "post_attention_layernorm.weight"] = torch.ones(size.hidden, dtype=torch.bfloat16)
    return out


def _growth(size: TinySize) -> float:
    """Return about how much the layers enlarge the residual stream, which the last norm takes back."""
    each = 1.15 * size.intermediate / size.hidden + 0.35  # as measured
    return float((1.0 + each * size.layers) ** 0.5)


def _add_grammar(embeddings: Any, output: Any, vocabulary: dict[str, int], growth: float) -> None:
    """Set the first dimensions of both tables."""
    size = embeddings.shape[1]
    embeddings[:, :_GRAMMAR] = 0.0
    embeddings[:, _ALWAYS] = _LEVEL * growth
    for token, at in vocabulary.items():
        if token == END:
            embeddings[at, _ENDED] = _LEVEL * growth
        elif token in SPECIAL or token.endswith("Ċ"):
            embeddings[at, _START] = _LEVEL * growth
        elif token.endswith((".", "!", "?")):
            embeddings[at, _SENTENCE] = _LEVEL * growth
        else:
            continue
        embeddings[at, _GRAMMAR:] *= _QUIET
    output[:, :_GRAMMAR] = 0.0
    output[:, _ALWAYS] = -_NEVER / _LEVEL
    for word in WORDS:
        inside, later, first = (
            vocabulary.get(token) for token in (f"Ġ{word}", f"Ġ{word.capitalize()}", word.capitalize())
        )
        if inside is not None:
            output[inside, :_GRAMMAR] = -_NEVER / _LEVEL
            output[inside, _ALWAYS] = 0.0
            # No word twice in a row.
            output[inside, _GRAMMAR:] -= 3 * _SPREAD * growth / size * embeddings[inside, _GRAMMAR:]
        if later is not None:
            output[later, _SENTENCE] = output[later, _ENDED] = _NEVER / _LEVEL
        if first is not None:
            output[first, _START] = _NEVER / _LEVEL
    stop, end = vocabulary["."], vocabulary[END]
    output[stop, :_GRAMMAR] = -_NEVER / _LEVEL
    output[stop, _ALWAYS] = _FULL_STOP / _LEVEL
    output[end, _SENTENCE] = (_NEVER + _FINISH) / _LEVEL
    for at in (stop, end):  # as random as a word
        output[at, _GRAMMAR:] *= 10.0
