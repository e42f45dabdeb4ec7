"""A tiny Whisper with random weights: it hears a sound and writes random words, the same for the same sound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.devices import tiny_tokenizer

_END = tiny_tokenizer.SPECIAL[0]
_STAMPS = 1501
"""Times from 0 to 30 seconds, each 20 ms."""


@dataclass(frozen=True, slots=True)
class SpeechSize:
    """One model. Sizes are counts; a head's size, ``hidden / heads``, must be 32 or more."""

    hidden: int = 128
    layers: int = 2
    heads: int = 2
    intermediate: int = 256
    vocab: int = 4096
    max_len: int = 448


def write(folder: Path, size: SpeechSize) -> None:
    """Write a Hugging Face checkpoint into a folder, the same every time."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    tokenizer = _tokenizer(size.vocab)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    ends["decoder_start_token_id"] = tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=size.hidden,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=size.intermediate,
        decoder_ffn_dim=size.intermediate,
        max_source_positions=1500,
        max_target_positions=size.max_len,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **ends,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = WhisperForConditionalGeneration(config)
        with torch.no_grad():
            _draw(model, size.vocab)
    model.generation_config.update(
        **ends, suppress_tokens=None, begin_suppress_tokens=None, max_length=size.max_len
    )
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(vocab: int) -> Any:
    """Return the tokenizer of the tiny models with Whisper's own tokens behind it."""
    from transformers import WhisperTokenizerFast
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    inner = tiny_tokenizer.train(vocab)
    tasks = ("translate", "transcribe", "startoflm", "startofprev", "prev", "nospeech", "notimestamps")
    inner.add_special_tokens([f"<|{one}|>" for one in ("startoftranscript", *LANGUAGES, *tasks)])
    inner.add_tokens([f"<|{stamp * 0.02:.2f}|>" for stamp in range(_STAMPS)])
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), _END)
    return WhisperTokenizerFast(tokenizer_object=inner, **ends)


def _draw(model: Any, words: int) -> None:
    """Draw weights that make a sound matter, and texts of words: hardly any times, and no single bytes."""
    for name, weights in model.named_parameters():
        if weights.dim() >= 2 and "embed_positions" not in name:
            weights.normal_(0, 1.3 / weights[0].numel() ** 0.5)
    embeddings = model.model.decoder.embed_tokens.weight
    embeddings *= 4
    embeddings[words:] *= 0.05
    embeddings[:260] *= 0.1
    model.model.decoder.embed_positions.weight.normal_(0, 1.5)
