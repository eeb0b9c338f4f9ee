"""Rows CF-03 and CF-05 of the catalogue for settings that only some decoders have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuili.errors import ModelFormatError, ModelUnsupportedError

from .cases import CONFIG, Case, folder

F, U = ModelFormatError, ModelUnsupportedError


def _case(architecture: str, name: str, error: Any, code: str, **changes: Any) -> Case:
    settings = CONFIG | {"architectures": [architecture]} | changes
    return Case("CF-03", f"{architecture} {name}", folder(config=settings), error, code)


def decoders() -> Iterator[Case]:
    value = "config_value"
    yield _case("SmolLM3ForCausalLM", "rope of 2", F, value, no_rope_layers=[2] * 99)
    yield _case("SmolLM3ForCausalLM", "rope of too few", F, value, no_rope_layers=[])
    yield _case("GlmForCausalLM", "turns one", F, value, partial_rotary_factor=0.0626)
    yield _case("GlmForCausalLM", "turns none", F, value, partial_rotary_factor=0.0)
    yield _case("StableLmForCausalLM", "turns 2 heads", F, value, partial_rotary_factor=2.0)
    yield _case("FalconForCausalLM", "two norms", U, "config_unsupported", num_ln_in_parallel_attn=2)
    yield _case("BloomForCausalLM", "other residual", U, "config_unsupported",
                apply_residual_connection_post_layernorm=True)  # fmt: skip
    yield _case("GPT2LMHeadModel", "crossed", U, "config_unsupported", add_cross_attention=True,
                n_embd=32, n_layer=1, n_head=2, n_positions=64)  # fmt: skip
    yield _case("GPT2LMHeadModel", "without its sizes", F, "config_key")
    yield _case("Phi3ForCausalLM", "without its tensors", F, "tensor_missing")
    yield _case("OlmoForCausalLM", "clip 0", F, value, clip_qkv=0)
    yield _case("Qwen2ForCausalLM", "three kinds", F, value, layer_types=["a"] * CONFIG["num_hidden_layers"])
    yield _case("GraniteForCausalLM", "residual 0", F, value, residual_multiplier=0)
    yield _case("MistralForCausalLM", "window 0", F, value, sliding_window=0)
    for name, factors in (("few", [1.0]), ("none", None), ("zero", [0] * 8), ("text", ["1"] * 8)):
        scaling = {"rope_type": "longrope", "short_factor": factors, "long_factor": factors}
        yield Case("CF-05", f"longrope, {name}", folder(config=CONFIG | {"rope_scaling": scaling}), F, value)


CASES = list(decoders())
