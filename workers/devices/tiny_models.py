"""Build a tiny random Llama in seconds, offline: the default model of laptops, tests and control-plane
benchmarks.

Its texts are word salad, but everything about it is real: a byte-level BPE tokenizer, a chat template with tools,
safetensors weights. The seed is fixed, so the same versions of the libraries build the same model.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVED_NAME = "tiny-random"
"""The name under which workers serve it."""

_VERSION = 1
"""Raise it when the recipe changes, so that cached models are built anew."""


@dataclass(frozen=True, slots=True)
class TinySize:
    """One size. Sizes are counts, ``max_len`` is in tokens; ``alike``: every layer has the weights of the first."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int = 4096
    max_len: int = 4096
    alike: bool = False


SIZES: dict[str, TinySize] = {
    "tiny": TinySize(hidden=256, layers=4, heads=4, kv_heads=2, intermediate=512),
    "nano": TinySize(hidden=64, layers=1, heads=1, kv_heads=1, intermediate=64),
    "small": TinySize(hidden=512, layers=8, heads=8, kv_heads=4, intermediate=1536),
    "8b": TinySize(hidden=4096, layers=32, heads=32, kv_heads=8, intermediate=14336, alike=True),
}
"""``tiny`` lets the engine dominate, ``nano`` the Python front, as it does beside a fast GPU. With ``small`` (28 million
weights) reading the prompt is what the first token waits for, as with models that people chat with. ``8b`` has the layers
of Llama 3 8B, for a GPU: 14 GB, made in half a minute.
"""

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

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

_WORD_LIST = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they
which one you were all her she there would their we him been has when who will no more if out so up said
what its about than into them can only other time new some could these two may first then do any like my
now over such our man me even most made after also did many before must through years where much your way
well down should because each just those people how too little state good very make world still see own
work long here get both between life being under three never know same last another while us off might
great go come since against right came take used himself few house use place during high without again
home around small however found mrs thought went say part once general upon school every does got united
left number course war until always away something fact water though less public put thing almost hand
enough far took head yet better set told nothing night end why called find going look asked later next
system group knew city toward give president point within hold turbine river stone dam pipe valve pressure
gate stream flow queue token model engine worker answer question letter language science energy machine
light field sound color winter summer morning evening garden forest mountain island ocean bridge street
window door table paper story music voice heart mind body friend family mother father children brother
sister teacher doctor student market money price company business office service program problem reason
result example history law power government country nation north south east west region village road train
ship plane engineer method measure order system structure simple complex quick slow bright dark warm cold
heavy clear quiet deep shallow narrow wide strong gentle early late begin start stop open close read write
speak listen build carry follow remember forget return answer move change grow explain describe consider
include provide require suggest develop produce increase reduce improve create design test name value type
object string integer number boolean array true false null properties required arguments function
"""

_WORDS = _WORD_LIST.split()

_EXTRA = """
Hello! How are you today? I can help with that. Here is a short answer, and then a longer one: let us see.
{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}} <tool_call></tool_call>
def main(): return [x * 2 for x in range(10)]  # a list of even numbers
1 2 3 4 5 6 7 8 9 10 100 1000 2024 3.14 0.5
Zürich, naïve, café, 東京, привет, مرحبا, emoji 🙂
"""


def _corpus() -> Iterator[str]:
    """Yield lines of sentences over the word list, the same every time."""
    rng = random.Random(20240601)
    for _ in range(4000):
        words = rng.choices(_WORDS, k=rng.randint(6, 18))
        yield " ".join(words).capitalize() + rng.choice(".?!,;:") + "\n"
    for word in _WORDS:
        forms = (f"{word}{ending}" for ending in ("", "s", "ing", "ed", "er", "ly", "ness"))
        yield f" {' '.join(forms)} {word.capitalize()} un{word} re{word}\n"
    yield from (_EXTRA + "\n" for _ in range(20))


def _tokenizer(vocab: int) -> Any:
    """Train the byte-level BPE tokenizer (about a second)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    if tokenizer.get_vocab_size() != vocab:
        # Ids beyond the tokenizer's would decode to nothing.
        raise RuntimeError(f"the corpus gives {tokenizer.get_vocab_size()} tokens, not {vocab}")
    return tokenizer


def _weights(size: TinySize) -> dict[str, Any]:
    """Random weights, wide enough that greedy decoding does not fall into one token at once."""
    import torch

    gen = torch.Generator().manual_seed(20240601)

    def normal(*shape: int, std: float) -> Any:
        return (torch.randn(*shape, generator=gen) * std).to(torch.bfloat16).contiguous()

    head_dim = size.hidden // size.heads
    std = 1.2 / size.hidden**0.5
    out: dict[str, Any] = {
        "model.embed_tokens.weight": normal(size.vocab, size.hidden, std=1.0),
        "model.norm.weight": torch.ones(size.hidden, dtype=torch.bfloat16),
        "lm_head.weight": normal(size.vocab, size.hidden, std=2.5 / size.hidden**0.5),
    }
    # Special tokens and lone bytes come first in the vocabulary: rare, so that texts are words and run to
    # max_tokens.
    out["lm_head.weight"][: len(_SPECIAL) + 256] *= 0.1
    for layer in range(size.layers):
        at = f"model.layers.{layer}."
        if layer and size.alike:
            of = "model.layers.0."
            out |= {name.replace(of, at): one.clone() for name, one in out.items() if name.startswith(of)}
            continue
        out[at + "self_attn.q_proj.weight"] = normal(size.heads * head_dim, size.hidden, std=std)
        out[at + "self_attn.k_proj.weight"] = normal(size.kv_heads * head_dim, size.hidden, std=std)
        out[at + "self_attn.v_proj.weight"] = normal(size.kv_heads * head_dim, size.hidden, std=std)
        out[at + "self_attn.o_proj.weight"] = normal(size.hidden, size.heads * head_dim, std=std)
        out[at + "mlp.gate_proj.weight"] = normal(size.intermediate, size.hidden, std=std)
        out[at + "mlp.up_proj.weight"] = normal(size.intermediate, size.hidden, std=std)
        out[at + "mlp.down_proj.weight"] = normal(size.hidden, size.intermediate, std=std)
        out[at + "input_layernorm.weight"] = torch.ones(size.hidden, dtype=torch.bfloat16)
        out[at + "post_attention_layernorm.weight"] = torch.ones(size.hidden, dtype=torch.bfloat16)
    return out


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

    _tokenizer(size.vocab).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": _SPECIAL[0],
                "pad_token": _SPECIAL[0],
                "eos_token": _SPECIAL[2],
                "model_max_length": size.max_len,
                "clean_up_tokenization_spaces": False,
                "chat_template": CHAT_TEMPLATE,
            },
            indent=1,
        )
    )
    (folder / "config.json").write_text(json.dumps(_config(size), indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 2}))
    save_file(_weights(size), str(folder / "model.safetensors"), metadata={"format": "pt"})


def build_tiny_model(cache_dir: Path, size: str = "tiny") -> Path:
    """Build the model unless it is there already; safe to call from several processes at once.

    Args:
        cache_dir: where models are kept; created if missing.
        size: a key of :data:`SIZES`.

    Returns:
        The model's folder, a Hugging Face checkpoint.

    Raises:
        KeyError: no such size.
        OSError: the folder cannot be written.
    """
    spec = SIZES[size]
    digest = hashlib.sha256(json.dumps([_VERSION, asdict(spec), CHAT_TEMPLATE]).encode()).hexdigest()[:10]
    target = cache_dir / f"{size}-random-{digest}"
    if target.is_dir():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{size}-", dir=cache_dir))
    try:
        made.chmod(0o755)
        _write(made, spec)
        try:
            os.rename(made, target)  # noqa: PTH104 - atomic; fails if another process was first
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target
