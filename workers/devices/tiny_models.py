"""Build a tiny random Llama in seconds, offline: the default model of laptops, tests and control-plane
benchmarks.

Its texts are sentences of random words that end after some dozens of tokens (:mod:`workers.devices.tiny_weights`), but
everything about it is real: a byte-level BPE tokenizer, a chat template with tools, safetensors weights. The seed is fixed,
so the same versions of the libraries build the same model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workers.devices import tiny_encoder, tiny_speech, tiny_tokenizer, tiny_vision, tiny_weights
from workers.devices.tiny_encoder import EncoderSize
from workers.devices.tiny_speech import SpeechSize
from workers.devices.tiny_tokenizer import SPECIAL
from workers.devices.tiny_vision import VisionSize
from workers.devices.tiny_weights import TinySize

SERVED_NAME = "tiny-random"
"""The name under which workers serve it."""

TINY_MODELS: dict[str, str] = {
    SERVED_NAME: "tiny",
    "tiny-embed": "tiny",
    "tiny-rerank": "rerank",
    "tiny-classify": "classify",
    "tiny-whisper": "whisper",
    "tiny-vision": "vision",
}
"""Names that a worker takes for its model, and the size that it builds for each."""

SIZES: dict[str, TinySize] = {
    "tiny": TinySize(hidden=256, layers=4, heads=4, kv_heads=2, intermediate=512),
    "nano": TinySize(hidden=64, layers=1, heads=1, kv_heads=1, intermediate=64),
    "small": TinySize(hidden=512, layers=8, heads=8, kv_heads=4, intermediate=1536),
    "paced": TinySize(hidden=64, layers=1, heads=1, kv_heads=1, intermediate=64, max_len=32_768),
    "quotes": TinySize(hidden=256, layers=4, heads=4, kv_heads=2, intermediate=512, quotes=True),
    "8b": TinySize(hidden=4096, layers=32, heads=32, kv_heads=8, intermediate=14336, alike=True),
}
"""``tiny`` lets the engine dominate, ``nano`` the Python front, as it does beside a fast GPU. With ``small`` (28 million
weights) reading the prompt is what the first token waits for, as with models that people chat with. ``8b`` has the layers
of Llama 3 8B, for a GPU: 14 GB, made in half a minute. ``paced`` lends a paced engine its tokenizer and a long context.
``quotes`` ends the texts in what it must write as JSON, which ``tiny`` hardly ever does.
"""

ENCODERS: dict[str, EncoderSize] = {
    "rerank": EncoderSize(("relevant",)),
    "classify": EncoderSize(("sad", "fine", "glad")),
}
"""Sizes of :mod:`workers.devices.tiny_encoder`: models that generate nothing."""

SPEECH: dict[str, SpeechSize] = {"whisper": SpeechSize()}
"""Sizes of :mod:`workers.devices.tiny_speech`: models that hear."""

VISION: dict[str, VisionSize] = {"vision": VisionSize()}
"""Sizes of :mod:`workers.devices.tiny_vision`: models that see. The text is that of the size ``tiny``."""

CHAT_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\\n\\n' }}{%- endif %}
{{- 'You may call these functions; write <tool_call>{"name": ..., "arguments": {...}}</tool_call>.\\n' }}
{%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message['role'] == 'system') %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}{{- message['content'] }}{%- endif %}
{%- for call in message.get('tool_calls') or [] %}
{%- set f = call['function'] %}
{{- '<tool_call>{"name": "' + f['name'] + '", "arguments": ' }}
{{- f['arguments'] if f['arguments'] is string else f['arguments'] | tojson }}{{- '}</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def _config(size: TinySize) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.hidden // size.heads,
        "max_position_embeddings": size.max_len,
        "vocab_size": size.vocab,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    }


def _write(folder: Path, size: TinySize) -> None:
    from safetensors.torch import save_file

    tokenizer = tiny_tokenizer.train(size.vocab)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": SPECIAL[0],
                "pad_token": SPECIAL[0],
                "eos_token": SPECIAL[2],
                "model_max_length": size.max_len,
                "clean_up_tokenization_spaces": False,
                "chat_template": CHAT_TEMPLATE,
            },
            indent=1,
        )
    )
    (folder / "config.json").write_text(json.dumps(_config(size), indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 2}))
    weights = tiny_weights.make(size, tokenizer.get_vocab())
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


def _fingerprint(spec: TinySize | EncoderSize | SpeechSize | VisionSize) -> str:
    """Return what a model is named after: a change of its recipe, these modules, is another model."""
    recipe = hashlib.sha256(json.dumps(asdict(spec)).encode())
    modules = tiny_tokenizer, tiny_weights, tiny_encoder, tiny_speech, tiny_vision
    for source in (__file__, *(str(module.__file__) for module in modules)):
        recipe.update(Path(source).read_bytes())
    return recipe.hexdigest()[:10]


def build_tiny_model(cache_dir: Path, size: str = "tiny") -> Path:
    """Build the model unless it is there already; safe to call from several processes at once.

    Args:
        cache_dir: where models are kept; created if missing.
        size: a key of :data:`SIZES`, :data:`ENCODERS`, :data:`SPEECH` or :data:`VISION`.

    Returns:
        The model's folder, a Hugging Face checkpoint.

    Raises:
        KeyError: no such size.
        OSError: the folder cannot be written.
    """
    spec = SIZES.get(size) or ENCODERS.get(size) or SPEECH.get(size) or VISION[size]
    target = cache_dir / f"{size}-random-{_fingerprint(spec)}"
    if target.is_dir():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{size}-", dir=cache_dir))
    try:
        made.chmod(0o755)
        if isinstance(spec, EncoderSize):
            tiny_encoder.write(made, spec)
        elif isinstance(spec, SpeechSize):
            tiny_speech.write(made, spec)
        elif isinstance(spec, VisionSize):
            tiny_vision.write(made, spec, build_tiny_model(cache_dir))
        else:
            _write(made, spec)
        try:
            os.rename(made, target)  # noqa: PTH104 - atomic; fails if another process was first
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target
