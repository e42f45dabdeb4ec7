"""A tiny Idefics3 with random weights: the tiny Llama behind a small tower that sees. Its texts depend on the images.

vLLM runs it on a CPU without torchvision, since its image processor is the one of PIL.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MARKS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
"""Idefics3's own tokens, behind the Llama's."""

_TEXT = "{%- if message['content'] is string %}{{- message['content'] }}{%- endif %}"
_PARTS = (
    "{%- if message['content'] is string %}{{- message['content'] }}"
    "{%- elif message['content'] %}{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}{{- '<image>' }}{%- else %}{{- part['text'] }}{%- endif %}"
    "{%- endfor %}{%- endif %}"
)


@dataclass(frozen=True, slots=True)
class VisionSize:
    """One model. Sizes are counts; ``side`` and ``patch`` are pixels. A head's size, ``hidden / heads``, must be 32 or more.

    An image has ``(side / patch / scale)²`` tokens in the prompt, and two around them.
    """

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    intermediate: int = 128
    side: int = 64
    patch: int = 8
    scale: int = 2

    @property
    def tokens(self) -> int:
        """Tokens that the tower makes of an image."""
        return int((self.side // self.patch) ** 2 // self.scale**2)


def write(folder: Path, size: VisionSize, llama: Path) -> None:
    """Write a Hugging Face checkpoint into a folder, the same every time.

    Args:
        llama: folder of the tiny Llama that writes the texts.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import (
        AutoTokenizer,
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3Processor,
    )
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.add_special_tokens({"additional_special_tokens": list(_MARKS)})
    tokenizer.chat_template = template = _with_parts(tokenizer.chat_template)
    config = Idefics3Config(
        vision_config={
            "hidden_size": size.hidden,
            "intermediate_size": size.intermediate,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "image_size": size.side,
            "patch_size": size.patch,
        },
        text_config=_text_config(llama, len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=size.scale,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Idefics3ForConditionalGeneration(config).float()
        with torch.no_grad():
            _draw(model)
            _take_over(model, llama)
    config.architectures = ["Idefics3ForConditionalGeneration"]
    config.to_json_file(
        folder / "config.json", use_diff=False
    )  # to find the differences it makes a default that warns
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 2}))
    save_file(model.state_dict(), str(folder / "model.safetensors"), metadata={"format": "pt"})
    longest = {"longest_edge": size.side}
    images = Idefics3ImageProcessorPil(do_image_splitting=False, size=longest, max_image_size=longest)
    Idefics3Processor(
        image_processor=images, tokenizer=tokenizer, image_seq_len=size.tokens, chat_template=template
    ).save_pretrained(folder)


def _with_parts(template: str) -> str:
    """Return the Llama's chat template with images in the places where a message has them."""
    if _TEXT not in template:
        raise RuntimeError("the tiny Llama's chat template has another form")
    return template.replace(_TEXT, _PARTS)


def _text_config(llama: Path, vocab: int) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((llama / "config.json").read_text())
    for name in ("architectures", "torch_dtype"):
        del config[name]
    return {**config, "vocab_size": vocab, "dtype": "float32"}


def _draw(model: Any) -> None:
    """Draw a tower that keeps what it saw: weights of the default size would make every image the same."""
    for name, weights in model.named_parameters():
        if "vision_model" not in name and "connector" not in name:
            continue
        if weights.dim() >= 2:
            weights.normal_(0, 1.2 / weights[0].numel() ** 0.5)
        elif "norm" not in name:
            weights.zero_()


def _take_over(model: Any, llama: Path) -> None:
    """Copy the Llama's weights. The tokens that it does not know are hardly ever written."""
    from safetensors.torch import load_file

    state, known = model.state_dict(), load_file(str(llama / "model.safetensors"))
    words = known["lm_head.weight"].shape[0]
    for name, weights in known.items():
        own = state[name.replace("model.", "model.text_model.", 1) if name.startswith("model.") else name]
        own[: weights.shape[0]].copy_(weights.float())
    state["lm_head.weight"][words:] *= 0.1
