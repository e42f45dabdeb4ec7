"""Tiny encoders with random weights: BERT with one label, which ranks documents, and with three, which classifies texts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.devices import tiny_tokenizer

_SPECIAL = ("[CLS]", "[SEP]", "[PAD]")


@dataclass(frozen=True, slots=True)
class EncoderSize:
    """One encoder. Sizes are counts, ``max_len`` is in tokens; a head's size, ``hidden / heads``, must be 32 or more.

    With one label the model scores a pair of texts (vLLM's rerank and score); with several it names the class of one.
    """

    labels: tuple[str, ...]
    hidden: int = 64
    layers: int = 2
    heads: int = 2
    intermediate: int = 128
    vocab: int = 4096
    max_len: int = 512


def write(folder: Path, size: EncoderSize) -> None:
    """Write a Hugging Face checkpoint into a folder, the same every time."""
    from safetensors.torch import save_file

    tokenizer = _tokenizer(size.vocab)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "cls_token": _SPECIAL[0],
                "sep_token": _SPECIAL[1],
                "pad_token": _SPECIAL[2],
                "model_max_length": size.max_len,
                "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
                "clean_up_tokenization_spaces": False,
            },
            indent=1,
        )
    )
    vocabulary = tokenizer.get_vocab()
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": len(vocabulary),
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.intermediate,
        "max_position_embeddings": size.max_len,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": vocabulary[_SPECIAL[2]],
        "id2label": {str(place): label for place, label in enumerate(size.labels)},
        "label2id": {label: place for place, label in enumerate(size.labels)},
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    weights = _weights(size, len(vocabulary))
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


def _tokenizer(vocab: int) -> Any:
    """Return the tiny models' tokenizer with BERT's tokens around a text, or around two."""
    from tokenizers import processors

    tokenizer = tiny_tokenizer.train(vocab)
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in _SPECIAL[:2]],
    )
    return tokenizer


def _weights(size: EncoderSize, vocab: int) -> dict[str, Any]:
    """Return the tensors by name. They are large enough that every text gets scores of its own."""
    import torch

    gen = torch.Generator().manual_seed(20240601)
    out: dict[str, Any] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        out[f"{name}.weight"] = torch.randn(rows, columns, generator=gen) * (1.5 / columns**0.5)
        out[f"{name}.bias"] = torch.zeros(rows)

    def norm(name: str) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = torch.ones(size.hidden), torch.zeros(size.hidden)

    for name, rows in (("word", vocab), ("position", size.max_len), ("token_type", 2)):
        out[f"bert.embeddings.{name}_embeddings.weight"] = torch.randn(rows, size.hidden, generator=gen)
    norm("bert.embeddings.LayerNorm")
    for layer in range(size.layers):
        at = f"bert.encoder.layer.{layer}."
        for part in ("query", "key", "value"):
            linear(f"{at}attention.self.{part}", size.hidden, size.hidden)
        linear(f"{at}attention.output.dense", size.hidden, size.hidden)
        norm(f"{at}attention.output.LayerNorm")
        linear(f"{at}intermediate.dense", size.intermediate, size.hidden)
        linear(f"{at}output.dense", size.hidden, size.intermediate)
        norm(f"{at}output.LayerNorm")
    linear("bert.pooler.dense", size.hidden, size.hidden)
    linear("classifier", len(size.labels), size.hidden)
    return out
