"""The decoder inside a model that also sees or hears: its settings, and its tensors under its own names."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.files import shown
from tuili.loading.generation_config import LEGACY

# Those that give their decoder, when they read text alone, what it would be given by itself. Some count
# positions along three axes, which are equal in a text. First, those whose head is the embedding unless they
# say otherwise; then, those for which either part may say that it is.
_TIED = (
    *("AyaVision", "Cohere2Vision", "DeepseekVL", "Gemma3", "GotOcr2", "GraniteSpeech"),
    *("HyperCLOVAXVisionV2", "InternVL", "Janus", "LightOnOcr", "Mistral3", "Ovis2"),
)
_EITHER = ("Glm4v", "Llava", "LlavaNextVideo", "LlavaOnevision", "Qwen2VL", "Qwen2_5_VL", "VideoLlama3")
_OTHERS = (
    *("Exaone4_5_", "Idefics2", "Idefics3", "LlavaNext", "Qwen2Audio", "Qwen3VL", "SmolVLM"),
    *("VideoLlava", "VipLlava", "Voxtral"),
)
STEMS = (*_TIED, *_EITHER, *_OTHERS)
CLASSES = tuple(f"{stem}ForConditionalGeneration" for stem in STEMS)
_FLAT = ("Qwen2VL", "Qwen2_5_VL")  # whose config.json had no text_config once
_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
_LLAMA = _7B | {"vocab_size": 32000}
_QWEN = _7B | {"intermediate_size": 22016, "vocab_size": 151936}
_QWEN_VL: dict[str, float] = {
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "rms_norm_eps": 1e-5,
    "max_window_layers": 80,
    "rope_theta": 1e6,
}
_MINISTRAL = _7B | {"intermediate_size": 14336, "num_hidden_layers": 34, "vocab_size": 131072}
_COHERE = {
    "hidden_size": 8192,
    "intermediate_size": 22528,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
}
_GLM = _7B | {"intermediate_size": 13696, "num_hidden_layers": 40, "vocab_size": 151552}
_GLM |= {"max_position_embeddings": 32768}
_VOXTRAL = {  # whatever decoder it has
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 30,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e8,
    "vocab_size": 131072,
}
# model_type of text_config -> the decoder's class, and sizes that files leave to its configuration's.
PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", _LLAMA),
    "mistral": ("MistralForCausalLM", _7B | {"intermediate_size": 14336, "vocab_size": 32000}),
    "ministral3": ("Ministral3ForCausalLM", _MINISTRAL),
    "qwen2": ("Qwen2ForCausalLM", _QWEN),
    "qwen2_vl_text": ("Qwen2ForCausalLM", _QWEN_VL),
    "qwen2_5_vl_text": ("Qwen2ForCausalLM", _QWEN_VL),
    "qwen3": ("Qwen3ForCausalLM", _QWEN),
    "qwen3_vl_text": (
        "Qwen3ForCausalLM",
        _QWEN | {"max_position_embeddings": 128000, "rope_theta": 500_000.0},
    ),
    "gemma3_text": ("Gemma3ForCausalLM", {"num_attention_heads": 8, "vocab_size": 262208}),
    "cohere2": ("Cohere2ForCausalLM", _COHERE | {"vocab_size": 256000}),
    "granite": ("GraniteForCausalLM", _LLAMA),
    "hyperclovax": ("HyperCLOVAXForCausalLM", _LLAMA),
    "exaone4": ("Exaone4ForCausalLM", _7B | {"intermediate_size": 16384, "vocab_size": 102400}),
    "glm4v_text": (
        "Glm4ForCausalLM",
        _GLM | {"rms_norm_eps": 1e-5, "partial_rotary_factor": 1.0, "head_dim": None},
    ),
}
_OF_THE_WHOLE = ("tie_word_embeddings", "eos_token_id", "bos_token_id", "quantization_config", *LEGACY)
_NAMES = re.compile(r"(?:model\.)?(?:language|text)_model\.(?:model\.)?(.+)|(lm_head\..+)")
_FLAT_NAMES = re.compile(r"model\.((?:embed_tokens|layers|norm)\..+)")


def language_part(config: Config) -> Config | None:
    """The decoder's configuration, by `text_config`; None if the model is not one of CLASSES.

    raises  ModelFormatError without text_config, ModelUnsupportedError for another decoder
    """
    names = config.values.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or names[0] not in CLASSES:
        return None
    stem = names[0].removesuffix("ForConditionalGeneration")
    if stem in _FLAT and config.values.get("text_config") is None:
        flat = {key: value for key, value in config.values.items() if key != "architectures"}
        config.values = {**config.values, "text_config": flat | {"model_type": "qwen2_vl_text"}}
    part = config.section("text_config")
    if part is None:
        raise ModelFormatError(f"{config.what}: text_config is missing", code="config_key")
    kind = part.values.get("model_type")
    if not isinstance(kind, str) or kind not in PARTS:
        raise ModelUnsupportedError(
            f"{part.what}: model_type is {shown(kind)}; supported: {', '.join(PARTS)}", code="architecture"
        )
    name, usual = PARTS[kind]
    whole = {"tie_word_embeddings": True} if stem in _TIED else {}
    whole |= {key: config.values[key] for key in _OF_THE_WHOLE if key in config}
    if stem in _EITHER and part.values.get("tie_word_embeddings") is True:
        whole["tie_word_embeddings"] = True
    part.values = {**part.values, **whole, "architectures": [name]}
    part.fill(usual | (_VOXTRAL if stem == "Voxtral" else {}))
    _set_apart(part, kind)
    if stem != "HyperCLOVAXVisionV2":
        _leave_logits(part)
    return part


def _leave_logits(part: Config) -> None:
    """The whole has a head of its own, which neither scales nor caps, as in transformers 5.24."""
    for key, plain in (("logit_scale", 1.0), ("logits_scaling", 1.0), ("final_logit_softcapping", None)):
        part.ignore(key, plain)
        part.values = {**part.values, key: plain}


def _set_apart(part: Config, kind: str) -> None:
    """What these decoders' configurations have otherwise than those of the same decoder alone."""
    fixed: dict[str, Any] = {}
    if kind == "qwen3_vl_text":
        fixed = {"use_sliding_window": False, "layer_types": None}
    elif kind == "glm4v_text":
        fixed = {"attention_bias": True}
    for key, value in fixed.items():
        part.ignore(key, value)
    for key in ("rope_scaling", "rope_parameters"):
        rope = part.values.get(key)
        if isinstance(rope, dict) and "mrope_section" in rope:
            kept = {name: value for name, value in rope.items() if not name.startswith("mrope_")}
            fixed[key] = {name: "default" if value == "mrope" else value for name, value in kept.items()}
    part.values = {**part.values, **fixed}


def take_language_part(checkpoint: Checkpoint) -> None:
    """Have the checkpoint list the decoder's tensors alone, named as the decoder's own class names them."""
    tensors = {}
    for info in checkpoint.tensors.values():
        found = _NAMES.fullmatch(info.name) or _FLAT_NAMES.fullmatch(info.name)
        if found is None:
            continue
        own = info.name if found[0].startswith("lm_head.") else f"model.{found[1]}"
        own = own.removeprefix("model.") if own.startswith("model.lm_head.") else own
        if own in tensors:
            raise ModelFormatError(
                f"tensor '{shown(info.name)}' is there twice, by two names", code="tensor_duplicate"
            )
        tensors[own] = dataclasses.replace(info, name=own)
    checkpoint.warnings.append(
        "of a model that also sees or hears, only the part that reads and writes text is loaded "
        f"({len(checkpoint.tensors) - len(tensors)} tensors are ignored)"
    )
    checkpoint.tensors = tensors
