"""The decoder inside a model that also sees images: its settings, and its tensors under its own names."""

from __future__ import annotations

import dataclasses
import re

from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.files import shown
from tuili.loading.generation_config import LEGACY

# Those that give their decoder, when they read text alone, what it would be given by itself.
_STEMS = ("Gemma3", "Idefics3", "InternVL", "Llava", "LlavaNext", "LlavaOnevision", "Mistral3", "SmolVLM")
CLASSES = tuple(f"{stem}ForConditionalGeneration" for stem in (*_STEMS, "VipLlava"))
_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
_QWEN = _7B | {"intermediate_size": 22016, "vocab_size": 151936}
_MINISTRAL = _7B | {"intermediate_size": 14336, "num_hidden_layers": 34, "vocab_size": 131072}
# model_type of text_config -> the decoder's class, and sizes that files leave to its configuration's.
_PARTS = {
    "llama": ("LlamaForCausalLM", _7B | {"vocab_size": 32000}),
    "mistral": ("MistralForCausalLM", _7B | {"intermediate_size": 14336, "vocab_size": 32000}),
    "ministral3": ("Ministral3ForCausalLM", _MINISTRAL),
    "qwen2": ("Qwen2ForCausalLM", _QWEN),
    "qwen3": ("Qwen3ForCausalLM", _QWEN),
    "gemma3_text": ("Gemma3ForCausalLM", {"num_attention_heads": 8, "vocab_size": 262208}),
}
_OF_THE_WHOLE = ("tie_word_embeddings", "eos_token_id", "bos_token_id", "quantization_config", *LEGACY)
_NAMES = re.compile(r"(?:model\.)?(?:language|text)_model\.(?:model\.)?(.+)|(lm_head\..+)")


def language_part(config: Config) -> Config | None:
    """The decoder's configuration, by `text_config`; None if the model is not one of CLASSES.

    raises  ModelFormatError without text_config, ModelUnsupportedError for another decoder
    """
    names = config.values.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or names[0] not in CLASSES:
        return None
    part = config.section("text_config")
    if part is None:
        raise ModelFormatError(f"{config.what}: text_config is missing", code="config_key")
    kind = part.values.get("model_type")
    if not isinstance(kind, str) or kind not in _PARTS:
        raise ModelUnsupportedError(
            f"{part.what}: model_type is {shown(kind)}; supported: {', '.join(_PARTS)}", code="architecture"
        )
    name, usual = _PARTS[kind]
    whole = {key: config.values[key] for key in _OF_THE_WHOLE if key in config}
    part.values = {**part.values, **whole, "architectures": [name]}
    part.fill(usual)
    return part


def take_language_part(checkpoint: Checkpoint) -> None:
    """Have the checkpoint list the decoder's tensors alone, named as the decoder's own class names them."""
    tensors = {}
    for info in checkpoint.tensors.values():
        found = _NAMES.fullmatch(info.name)
        if found is None:
            continue
        inner = found[1] or found[2]
        own = inner if inner.startswith("lm_head.") else f"model.{inner}"
        if own in tensors:
            raise ModelFormatError(
                f"tensor '{shown(info.name)}' is there twice, by two names", code="tensor_duplicate"
            )
        tensors[own] = dataclasses.replace(info, name=own)
    checkpoint.warnings.append(
        "of a model that sees images, only the part that reads and writes text is loaded "
        f"({len(checkpoint.tensors) - len(tensors)} tensors are ignored)"
    )
    checkpoint.tensors = tensors
