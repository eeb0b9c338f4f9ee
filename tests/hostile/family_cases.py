"""Rows CF-03 and CF-05 of the catalogue for settings that only some decoders have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuili.errors import ModelFormatError, ModelUnsupportedError

from .cases import CONFIG, Case, data_size, folder, llama_shapes, st_file, st_header

F, U = ModelFormatError, ModelUnsupportedError


def _case(architecture: str, name: str, error: Any, code: str, **changes: Any) -> Case:
    settings = CONFIG | {"architectures": [architecture]} | changes
    return Case("CF-03", f"{architecture} {name}", folder(config=settings), error, code)


_LATENT = {"kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
_ROUTED = _MOE | {"n_routed_experts": 8, "first_k_dense_replace": 0}


def newest() -> Iterator[Case]:
    """Of transformers 5.24, and encoder-decoders."""
    value = "config_value"
    for thetas in ([100.0], 100.0, [0.5] * CONFIG["num_hidden_layers"], ["1"] * CONFIG["num_hidden_layers"]):
        what = "config_type" if isinstance(thetas, list) and thetas[0] == "1" else value
        yield _case("GraniteSWAForCausalLM", f"bases {thetas}", F, what, layer_rope_theta=thetas)
    for window in (7, 0, [8], ["8"], True, 1 << 60):
        yield _case("LEDForConditionalGeneration", f"window {window}", F, value, attention_window=window,
                    decoder_start_token_id=0)  # fmt: skip
    yield _case("HYV3ForCausalLM", "biases", U, "config_unsupported", mlp_bias=True, **_MOE)
    yield _case("CTRLLMHeadModel", "two sizes of one", U, "config_unsupported", layer_norm_epsilon=1e-5,
                n_embd=32, n_layer=1, n_head=2, n_positions=64)  # fmt: skip
    yield _case("CTRLLMHeadModel", "too many positions", F, value, hidden_size=1 << 14,
                max_position_embeddings=1 << 20)  # fmt: skip
    yield _case("MPTForCausalLM", "ratio 0", F, value, expansion_ratio=0)
    yield _case("NanoChatForCausalLM", "turns half", U, "config_unsupported", partial_rotary_factor=0.5)


def decoders() -> Iterator[Case]:
    value = "config_value"
    yield _case("SmolLM3ForCausalLM", "rope of 2", F, value, no_rope_layers=[2] * 99)
    yield _case("SmolLM3ForCausalLM", "rope of too few", F, value, no_rope_layers=[])
    yield _case("GlmForCausalLM", "turns one", U, "config_unsupported",
                head_dim=16, partial_rotary_factor=0.0626)  # fmt: skip
    flat = {"rope_type": "linear", "factor": 2.0}
    yield _case("Olmo3ForCausalLM", "one rotation for all", F, value, rope_parameters=flat, rope_scaling=flat)
    yield _case("GlmForCausalLM", "turns none", F, value, partial_rotary_factor=0.0)
    yield _case("MistralForCausalLM", "turns half", U, "config_unsupported", partial_rotary_factor=0.5)
    yield _case("StableLmForCausalLM", "turns 2 heads", F, value, partial_rotary_factor=2.0)
    yield _case("FalconForCausalLM", "two norms", U, "config_unsupported", num_ln_in_parallel_attn=2)
    yield _case("BloomForCausalLM", "other residual", F, "config_type",
                apply_residual_connection_post_layernorm=1)  # fmt: skip
    yield _case("GPT2LMHeadModel", "crossed", U, "config_unsupported", add_cross_attention=True,
                n_embd=32, n_layer=1, n_head=2, n_positions=64)  # fmt: skip
    yield _case("GPT2LMHeadModel", "without its sizes", F, "config_key",
                hidden_size=None, num_hidden_layers=None, num_attention_heads=None)  # fmt: skip
    yield _case("Phi3ForCausalLM", "without its tensors", F, "tensor_missing")
    yield _case("OlmoForCausalLM", "clip 0", F, value, clip_qkv=0)
    yield _case("Qwen2ForCausalLM", "three kinds", F, value, layer_types=["a"] * CONFIG["num_hidden_layers"])
    yield _case("GraniteForCausalLM", "residual 0", F, value, residual_multiplier=0)
    yield _case("MistralForCausalLM", "window 0", F, value, sliding_window=0)
    yield _case("Qwen3MoeForCausalLM", "plain layers", F, value, mlp_only_layers=["0"], **_MOE)
    yield _case("Qwen3MoeForCausalLM", "five of four", F, value, **_MOE | {"num_experts_per_tok": 5})
    yield _case("Qwen3MoeForCausalLM", "without its tensors", F, "tensor_missing", **_MOE)
    yield _case("MixtralForCausalLM", "2000 experts", F, value, num_local_experts=2000)
    yield _case("GptOssForCausalLM", "alpha 0", F, value, swiglu_alpha=0.0)
    for kinds in ([1], [[["global"], -1]], [[["global", "near"], 1]]):
        yield _case("GPTNeoForCausalLM", f"kinds {kinds}", F, value, attention_types=kinds)
    yield _case("DeepseekV3ForCausalLM", "three groups", F, value, n_group=3, **_LATENT, **_ROUTED)
    yield _case("DeepseekV3ForCausalLM", "groups of one", F, "config_value", n_group=8, **_LATENT, **_ROUTED)
    yield _case(
        "DeepseekV3ForCausalLM",
        "rotates 7",
        U,
        "config_unsupported",
        **_LATENT | {"qk_rope_head_dim": 7, "n_group": 4},
        **_ROUTED,
    )
    yield _case("DeepseekV2ForCausalLM", "softmax", U, "config_unsupported", scoring_func="sigmoid",
                **_LATENT, **_ROUTED)  # fmt: skip
    attention = {"layer_types": ["attention"] * CONFIG["num_hidden_layers"]}
    yield _case("GraniteMoeHybridForCausalLM", "all mamba", U, "config_unsupported")
    yield _case("GraniteMoeHybridForCausalLM", "experts", F, value, num_experts_per_tok=9, **attention)
    yield _case("MarianModel", "words of its own", U, "config_unsupported", decoder_start_token_id=0,
                share_encoder_decoder_embeddings=False)  # fmt: skip
    yield _case("BaichuanForCausalLM", "second", U, "config_unsupported", vocab_size=125_696)
    for name, factors in (("few", [1.0]), ("none", None), ("zero", [0] * 8), ("text", ["1"] * 8)):
        scaling = {"rope_type": "longrope", "short_factor": factors, "long_factor": factors}
        yield Case("CF-05", f"longrope, {name}", folder(config=CONFIG | {"rope_scaling": scaling}), F, value)
    scaling = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0] * 8}
    scaling |= {"original_max_position_embeddings": 1}
    yield Case("CF-05", "longrope, of one", folder(config=CONFIG | {"rope_scaling": scaling}), F, value)


def later_decoders() -> Iterator[Case]:
    """Of transformers 5."""
    grouped = {"topk_method": "group_limited_greedy", "n_group": 3}
    yield _case("DeepseekV2ForCausalLM", "three groups", F, "config_value", **grouped, **_LATENT, **_ROUTED)
    for kinds in (7, ["dense", "thin"], ["dense"] * 99):
        types = {"mlp_layer_types": kinds, **_ROUTED}
        yield _case("Glm4MoeLiteForCausalLM", f"layers {kinds}"[:40], F, "config_value", **_LATENT, **types)
    yield _case("Dots1ForCausalLM", "without its experts", F, "config_key", num_experts_per_tok=None)
    yield _case("CodeGenForCausalLM", "in four parts", F, "config_value", hidden_size=30, n_positions=64)
    yield _case("XGLMForCausalLM", "2 columns", F, "config_value", hidden_size=2, num_attention_heads=1)
    alpha = {"rope_scaling": {"type": "dynamic", "alpha": 50.0}, "head_dim": 2}
    yield _case("HunYuanDenseV1ForCausalLM", "heads of 2", F, "config_value", **alpha)
    yield _case(
        "HunYuanMoEV1ForCausalLM", "none of some", F, "config_value", num_experts=4, moe_topk=[0] * 99
    )
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}
    yield _case("Ministral3ForCausalLM", "without a beta", F, "config_key", rope_parameters=yarn)
    yield _case("MiniCPM3ForCausalLM", "of no depth", F, "config_value", scale_depth=0, **_LATENT)
    yield _case("MiniCPM3ForCausalLM", "without its tensors", F, "tensor_missing", **_LATENT)
    few = {"num_local_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    yield _case("MellumForCausalLM", "layers of two kinds", F, "config_value", layer_types=[0], **few)
    yield _case("MellumForCausalLM", "three of two", F, "config_value", **few | {"num_experts_per_tok": 3})
    yield _case("MellumForCausalLM", "heads of 128", F, "tensor_shape", **few)
    yield _case("ModernBertDecoderForCausalLM", "sees none", F, "config_value", local_attention=1)
    yield _case("Ernie4_5_MoeForCausalLM", "least sum", F, "config_value", moe_norm_min=0.5)
    yield _case("ApertusForCausalLM", "without its numbers", F, "tensor_missing", hidden_act="xielu")
    yield _case("ApertusForCausalLM", "numbers of another activation", F, "tensor_missing", xielu=[[]])
    for shape, code in (([2], "tensor_shape"), ([0], "tensor_shape")):
        header = st_header(llama_shapes() | {"model.layers.0.mlp.act_fn.alpha_p": shape})
        settings = CONFIG | {"architectures": ["ApertusForCausalLM"], "hidden_act": "xielu"}
        yield Case("CF-03", f"ApertusForCausalLM {shape}", folder(st_file(header), settings), F, code)
    header = st_header({"model.layers.0.mlp.act_fn.alpha_p": []} | llama_shapes())
    nan = st_file(header)[: -data_size(header)] + b"\xff" * data_size(header)
    yield Case("CF-03", "ApertusForCausalLM of no number", folder(nan, settings), F, "config_value")
    header = st_header({"model.layers.0.mlp.act_fn.eps": []} | llama_shapes())
    threes = st_file(header)[: -data_size(header)] + b"\x40" * data_size(header)
    yield Case(
        "CF-03", "ApertusForCausalLM of another eps", folder(threes, settings), U, "config_unsupported"
    )
    yield _case("AfmoeForCausalLM", "three of two", F, "config_value", num_experts=2, num_experts_per_tok=3)
    one = {"num_local_experts": 1}
    yield _case("LlamaForCausalLM", "a warm temperature", F, "config_type", temperature="warm")
    yield _case("PhimoeForCausalLM", "one expert", F, "config_value", **one)
    factors = {"short_factor": [1.0] * 8, "long_factor": [1.0] * 8, "original_max_position_embeddings": 32}
    scaling = {"rope_scaling": {"rope_type": "longrope", **factors}}
    yield _case("PhimoeForCausalLM", "without its scale", F, "config_key", **scaling)


CASES = [*decoders(), *later_decoders(), *newest()]
