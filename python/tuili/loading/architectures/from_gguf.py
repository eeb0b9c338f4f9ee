"""What GGUF files say, under the names of config.json; llama.cpp's names of tensors -> ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuili.errors import ModelFormatError, ModelUnsupportedError
from tuili.loading.architectures import fused, sizes
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import ArrayPlace, Metadata
from tuili.loading.layout import Parts

# config.json's key -> the GGUF key behind "<architecture>.", for all architectures.
_U32_KEYS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
}
_LONGROPE = ("phi3", "minicpm")  # architectures that ask `longrope`, below
GGUF_WINDOW = {"sliding_window": "attention.sliding_window"}
# The same for decoders with RMS norms and rotary positions.
_DECODER_F32_KEYS = {"rms_norm_eps": "attention.layer_norm_rms_epsilon", "rope_theta": "rope.freq_base"}
_USUAL_THETA = 10_000.0

LAYER_NORM_EPS = {"layer_norm_eps": "attention.layer_norm_epsilon"}
EXPERT_KEYS = {
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
}


def gguf_config(
    metadata: Metadata, f32_keys: Mapping[str, str], u32_keys: Mapping[str, str] | None = None
) -> Config:
    """The sizes of a GGUF file, and its floats and integers of these keys, under the names of config.json.

    raises  ModelFormatError naming the GGUF key
    """
    prefix = metadata.get_str("general.architecture")
    u32_keys = _U32_KEYS | dict(u32_keys or {})
    names = {ours: f"{prefix}.{theirs}" for ours, theirs in (u32_keys | dict(f32_keys)).items()}
    n = metadata.get_u32(f"{prefix}.block_count", None)
    values: dict[str, object] = {ours: _of_all_layers(metadata, names[ours], n) for ours in u32_keys}
    values |= {ours: metadata.get_f32(names[ours], None) for ours in f32_keys}
    n_tokens = metadata.n_strings("tokenizer.ggml.tokens")
    config = Config(values, metadata.what, names)
    if values["vocab_size"] not in (None, n_tokens):
        raise config.wrong("vocab_size", f"{n_tokens}, the length of tokenizer.ggml.tokens")
    values["vocab_size"] = n_tokens
    return config


def _of_all_layers(metadata: Metadata, key: str, n_layers: int | None) -> int | None:
    """A UINT32; or what an array says of every layer, as files of architectures with mixed layers have it."""
    place = metadata.values().get(key, (0, None))[1]
    if not isinstance(place, ArrayPlace) or not n_layers:
        return metadata.get_u32(key, None)
    numbers = (metadata.get_i32_array if place.element == 5 else metadata.get_u32_array)(key, n_layers)
    if numbers.min() < 0 or numbers.min() != numbers.max():
        raise ModelUnsupportedError(
            f"{metadata.what}: {key} is not the same in all layers", code="config_unsupported"
        )
    return int(numbers[0])


def decoder_config(
    metadata: Metadata,
    checkpoint: Checkpoint,
    architecture: str | None = None,
    *,
    numbers: Mapping[str, str] | None = None,
    integers: Mapping[str, str] | None = None,
    present: Mapping[str, str] | None = None,
    rotates: str = "heads",
) -> Config:
    """The settings of a GGUF decoder under the names of config.json.

    architecture       the class of config.json, where a file of architectures asks for it
    numbers, integers  more keys of config.json -> GGUF's behind "<architecture>."
    present            flags of config.json -> the tensor of the first layer whose presence they mean
    rotates            "heads", "parts" of them, or "own" if the architecture has head sizes of its own
    raises             ModelFormatError naming the GGUF key, ModelUnsupportedError for experts that the
                       architecture has not, and for partial rotation
    """
    prefix = metadata.get_str("general.architecture")
    config = gguf_config(metadata, _DECODER_F32_KEYS | dict(numbers or {}), integers)
    if config.values["rope_theta"] is None:  # whatever the class's own is, files mean this
        config.update(rope_theta=_USUAL_THETA)
        config.defaults["rope_theta"] = _USUAL_THETA
    config.update(
        tie_word_embeddings="output.weight" not in checkpoint.tensors,
        rope_scaling=rope_scaling(metadata, prefix),
        eos_token_id=metadata.get_u32("tokenizer.ggml.eos_token_id", None),
        bos_token_id=metadata.get_u32("tokenizer.ggml.bos_token_id", None),
        sliding_window=config.values.get("sliding_window") or None,
        **{flag: f"blk.0.{name}" in checkpoint.tensors for flag, name in (present or {}).items()},
    )
    if architecture is not None:
        config.update(architectures=[architecture])
    n_experts = metadata.get_u32(f"{prefix}.expert_count", 0)
    if n_experts and "expert_count" not in (integers or {}).values():
        raise ModelUnsupportedError(
            f"{metadata.what}: {prefix}.expert_count: experts", code="config_unsupported"
        )
    if rotates != "own":
        _take_head_sizes(metadata, config, prefix, rotates)
    return config


def _take_head_sizes(metadata: Metadata, config: Config, prefix: str, rotates: str) -> None:
    head_dim = sizes(config).head_dim
    n_turned, n_values = (
        metadata.get_u32(f"{prefix}.{key}", head_dim)
        for key in ("rope.dimension_count", "attention.value_length")
    )
    whole = {"attention.value_length": n_values}
    if rotates == "parts" and 0 < n_turned < head_dim:
        fraction = n_turned / head_dim
        if int(head_dim * fraction) < n_turned:
            fraction = math.nextafter(fraction, 1)
        config.update(partial_rotary_factor=fraction)
    else:
        config.update(partial_rotary_factor=1.0)
        whole["rope.dimension_count"] = n_turned
    for key, size in whole.items():
        if size != head_dim:
            raise ModelUnsupportedError(
                f"{metadata.what}: {prefix}.{key} differs from the head size {head_dim}",
                code="config_unsupported",
            )


def rope_scaling(metadata: Metadata, prefix: str) -> dict[str, object] | None:
    """`rope_scaling` of config.json. A factor without a type is a linear one, as llama.cpp takes it; files of
    2023 call it rope.scale_linear.

    raises  ModelUnsupportedError (config_unsupported) for a sharpening of YaRN's attention, or a share of its
            frequencies, that is not usual
    """
    where = f"{prefix}.rope.scaling"
    old = metadata.get_f32(f"{prefix}.rope.scale_linear", None)
    kind, factor = metadata.get_str(f"{where}.type", None), metadata.get_f32(f"{where}.factor", old)
    if kind == "longrope" and prefix not in _LONGROPE:
        raise ModelUnsupportedError(
            f"{metadata.what}: {where}.type is longrope; supported for: {', '.join(_LONGROPE)}",
            code="rope_type",
        )
    if kind in ("none", "longrope") or (kind is None and factor in (None, 0.0, 1.0)):
        return None
    if factor is None:
        factor = metadata.get_f32(f"{where}.factor")
    scaling: dict[str, object] = {
        "rope_type": kind or "linear",
        "factor": factor,
        "original_max_position_embeddings": metadata.get_u32(f"{where}.original_context_length", None),
    }
    if kind != "yarn":
        return scaling
    # By attn_factor files say 1 or the usual value, and mean the usual one by both; yarn_attn_factor is
    # transformers' attention_factor, by which 1 would mean 1.
    usual = 1 + 0.1 * math.log(max(factor, 1.0))
    for key, allowed in (("attn", (1.0, usual)), ("yarn_attn", (usual,)), ("yarn_ext", (1.0, -1.0))):
        given = metadata.get_f32(f"{where}.{key}_factor", allowed[0])
        if not any(math.isclose(given, value, rel_tol=1e-5) for value in allowed):
            raise ModelUnsupportedError(
                f"{metadata.what}: {where}.{key}_factor is {given:.7g}; supported: "
                f"{' and '.join(f'{value:.7g}' for value in allowed)}",
                code="config_unsupported",
            )
    betas = {f"beta_{end}": metadata.get_f32(f"{where}.yarn_beta_{end}", None) for end in ("fast", "slow")}
    return scaling | betas


def longrope(
    metadata: Metadata, checkpoint: Checkpoint, n_pairs: int, usual_scale: float | None = None
) -> dict[str, Any]:
    """The same of LongRoPE, by its two tensors of divisors, as settings to add; none if there are none.

    n_pairs      of coordinates that turn
    usual_scale  of cos and sin, where the file does not say; None: as the lengths have it
    raises       ModelFormatError (tensor_missing) if the file asks for it, or holds one, and has not both
    """
    prefix = metadata.get_str("general.architecture")
    found = [divisors_of(checkpoint, f"rope_factors_{kind}.weight", n_pairs) for kind in ("short", "long")]
    short, long = found
    if short is None or long is None:
        if short is long and metadata.get_str(f"{prefix}.rope.scaling.type", None) != "longrope":
            return {}
        raise ModelFormatError(
            f"{metadata.what}: LongRoPE needs the tensors rope_factors_short.weight and "
            "rope_factors_long.weight",
            code="tensor_missing",
        )
    scaling = {
        "rope_type": "longrope",
        "short_factor": short.tolist(),
        "long_factor": long.tolist(),
        "attention_factor": metadata.get_f32(f"{prefix}.rope.scaling.attn_factor", usual_scale),
    }
    return {"rope_scaling": scaling}


def divisors_of(checkpoint: Checkpoint, name: str, n: int) -> NDArray[np.float32] | None:
    """The n divisors of rotary frequencies in a tensor of this name, None if there is none.

    raises  ModelFormatError (tensor_shape, config_value)
    """
    stored = checkpoint.tensors.get(name)
    if stored is None:
        return None
    if stored.format != "f32" or stored.shape != (n,):
        raise ModelFormatError(
            f"tensor '{name}' must be f32 [{n}], not {stored.format} {list(stored.shape)}",
            code="tensor_shape",
        )
    values = checkpoint.read(name).view(np.float32)
    if not ((values > 1e-6) & (values < 1e9)).all():
        raise ModelFormatError(f"tensor '{name}' holds a factor outside 1e-6 … 1e9", code="config_value")
    return values


# ---- names

GGUF_FUSED_QKV = fused("blk.{i}.attn_qkv")

# GGUF's tensor names are the same for all decoders, but for what norms around the MLP are called.
DECODER_GGUF_NAMES: dict[str, Any] = {
    "token_embd.weight": "token_embedding",
    "output_norm.weight": "final_norm",
    "output.weight": "head",
    "blk.{i}.attn_norm.weight": "layers.{i}.attention_norm",
    "blk.{i}.attn_q.weight": "layers.{i}.query",
    "blk.{i}.attn_k.weight": "layers.{i}.key",
    "blk.{i}.attn_v.weight": "layers.{i}.value",
    "blk.{i}.attn_output.weight": "layers.{i}.output",
    "blk.{i}.ffn_norm.weight": "layers.{i}.mlp_norm",
    "blk.{i}.ffn_gate.weight": "layers.{i}.gate",
    "blk.{i}.ffn_up.weight": "layers.{i}.up",
    "blk.{i}.ffn_down.weight": "layers.{i}.down",
    **GGUF_FUSED_QKV,
}

GGUF_ATTENTION_BIASES = {
    "blk.{i}.attn_q.bias": "layers.{i}.query.bias",
    "blk.{i}.attn_k.bias": "layers.{i}.key.bias",
    "blk.{i}.attn_v.bias": "layers.{i}.value.bias",
}
GGUF_BIASES = GGUF_ATTENTION_BIASES | {
    "blk.{i}.attn_output.bias": "layers.{i}.output.bias",
    "blk.{i}.ffn_gate.bias": "layers.{i}.gate.bias",
    "blk.{i}.ffn_up.bias": "layers.{i}.up.bias",
    "blk.{i}.ffn_down.bias": "layers.{i}.down.bias",
}
GGUF_NORM_BIASES = {
    "output_norm.bias": "final_norm.bias",
    "blk.{i}.attn_norm.bias": "layers.{i}.attention_norm.bias",
    "blk.{i}.ffn_norm.bias": "layers.{i}.mlp_norm.bias",
}
GGUF_QK_NORMS = {
    "blk.{i}.attn_q_norm.weight": "layers.{i}.query_norm",
    "blk.{i}.attn_k_norm.weight": "layers.{i}.key_norm",
}
GGUF_QK_NORMS_OF_HEADS = {
    "blk.{i}.attn_q_norm.weight": Parts(("layers.{i}.query_norms.{e}",), stacked=True),
    "blk.{i}.attn_k_norm.weight": Parts(("layers.{i}.key_norms.{e}",), stacked=True),
}
GGUF_POST_NORMS = {
    "blk.{i}.post_attention_norm.weight": "layers.{i}.post_attention_norm",
    "blk.{i}.post_ffw_norm.weight": "layers.{i}.post_mlp_norm",
}
GGUF_FUSED_GATE = {"blk.{i}.ffn_up.weight": Parts(("layers.{i}.gate", "layers.{i}.up"))}


def _experts() -> dict[str, Any]:
    gate_up = tuple(f"layers.{{i}}.experts.{{e}}.{part}" for part in ("gate", "up"))
    names: dict[str, Any] = {
        "blk.{i}.ffn_gate_inp.weight": "layers.{i}.router",
        "blk.{i}.ffn_gate_up_exps.weight": Parts(gate_up, stacked=True),
    }
    for part in ("gate", "up", "down"):
        ours = f"layers.{{i}}.experts.{{e}}.{part}"
        names[f"blk.{{i}}.ffn_{part}_exps.weight"] = Parts((ours,), stacked=True)
        names[f"blk.{{i}}.ffn_{part}.{{e}}.weight"] = ours  # files of 2023 and early 2024
        names[f"blk.{{i}}.ffn_{part}_shexp.weight"] = f"layers.{{i}}.shared.{part}"
    return names


GGUF_EXPERTS = _experts()
