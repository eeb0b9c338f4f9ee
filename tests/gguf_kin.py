"""GGUF files of the families of architecture_kin.py and their like, as gguf_families.py has the others."""

from __future__ import annotations

import gguf
import numpy as np

from architecture_files import values
from gguf_family import Family, Tensors, Values

_TIED = {"tie_word_embeddings": True}
_NORMS_BIASES = {"use_qk_norm": True, "attention_bias": True}
_UNGROUPED = {"num_key_value_heads": 4}
_GROUPS = {"n_group": 4, "topk_group": 2, "n_routed_experts": 8, "num_experts_per_tok": 3}


def _raised(tensors: Tensors, config: Values) -> Tensors:
    """Nemotron's gains, to which 1 is added."""
    return {name: x + np.float32(1) if name.endswith("norm.weight") else x for name, x in tensors.items()}


def _apertus(writer: gguf.GGUFWriter, config: Values) -> None:
    """The numbers of its activation, which lie among the tensors."""
    layers = range(config["num_hidden_layers"])
    at = "model.layers.{}.mlp.act_fn.{}"
    for part, add in (("alpha_p", writer.add_xielu_alpha_p), ("alpha_n", writer.add_xielu_alpha_n)):
        add([float(values(at.format(i, part), (1,))[0]) for i in layers])
    writer.add_xielu_beta([0.5 for _ in layers])
    writer.add_xielu_eps([-1e-6 for _ in layers])
    if "divisors" in config:
        writer.add_tensor("rope_freqs.weight", np.array(config["divisors"], np.float32))


def _afmoe(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_sliding_window(config["sliding_window"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_shared_count(config.get("num_shared_experts", 2))
    writer.add_expert_weights_scale(config.get("route_scale", 1.0))
    writer.add_expert_weights_norm(True)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_leading_dense_block_count(config.get("num_dense_layers", 1))


def _named_bias(tensors: Tensors, config: Values) -> Tensors:
    return {name.replace("expert_bias", "expert_bias.bias"): x for name, x in tensors.items()}


def _without_activation(tensors: Tensors, config: Values) -> Tensors:
    return {name: x for name, x in tensors.items() if "act_fn" not in name}


def _parted(writer: gguf.GGUFWriter, config: Values) -> None:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(int(head_dim * config.get("partial_rotary_factor", 0.5)))


def _hunyuan(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    if "moe_topk" in config:
        writer.add_expert_feed_forward_length(config["intermediate_size"])
        writer.add_expert_shared_feed_forward_length(config["intermediate_size"])


def _routed(writer: gguf.GGUFWriter, config: Values) -> None:
    head_dim = config["head_dim"]
    part = config.get("partial_rotary_factor", 0.5 if "Glm" in config["architectures"][0] else 1.0)
    writer.add_rope_dimension_count(int(head_dim * part))
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_weights_scale(config.get("routed_scaling_factor", 1.0))
    writer.add_expert_weights_norm(config.get("norm_topk_prob", "Glm" in config["architectures"][0]))
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_leading_dense_block_count(config.get("first_k_dense_replace", 1))
    if config["n_group"] > 1:
        writer.add_expert_group_count(config["n_group"])
        writer.add_expert_group_used_count(config["topk_group"])


def _corrected(tensors: Tensors, config: Values) -> Tensors:
    return {name.replace("correction_bias", "correction.bias"): x for name, x in tensors.items()}


def _ernie(writer: gguf.GGUFWriter, config: Values) -> None:
    width, n_shared = config["moe_intermediate_size"], config.get("moe_num_shared_experts", 2)
    writer.add_expert_feed_forward_length(width)
    writer.add_expert_count(config["moe_num_experts"])
    writer.add_expert_used_count(config["moe_k"])
    writer.add_interleave_moe_layer_step(1)
    writer.add_leading_dense_block_count(1)
    if n_shared:
        writer.add_expert_shared_feed_forward_length(width * n_shared)


def _flattened(tensors: Tensors, config: Values) -> Tensors:
    """A correction as a vector, under the name that the converter gives it."""
    return {
        name.replace("moe_statics.e_score_correction_bias", "moe_statics.e_score_correction.bias"): x[0]
        if "moe_statics" in name
        else x
        for name, x in tensors.items()
    }


def _minimax(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_rope_dimension_count(config.get("rotary_dim") or config["head_dim"])
    writer.add_expert_feed_forward_length(config["intermediate_size"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def _mpt(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_max_alibi_bias(8.0)
    if clip := (config.get("attn_config") or {}).get("clip_qkv"):
        writer.add_clamp_kqv(clip)


def _exaone4(writer: gguf.GGUFWriter, config: Values) -> None:
    if config["sliding_window"]:
        writer.add_sliding_window(config["sliding_window"])
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])


A = gguf.MODEL_ARCH
_SCALED: Values = {"mup_enabled": True, "num_hidden_layers": 5}
_SCALED |= {"leave_out": r"experts\.(gate_up|down)_proj$|mlp\.gate\.weight"}
_TURNS = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 5e5}
_WINDOWS = {"num_hidden_layers": 64, "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 16}
KIN = [
    Family("GPTBigCodeForCausalLM", A.STARCODER),
    Family("MptForCausalLM", A.MPT, ({}, {"n_heads": 6, "attn_config": {"clip_qkv": 0.5}}), _mpt),
    Family(
        "Exaone4ForCausalLM",
        A.EXAONE4,
        ({"sliding_window": None, **_TIED}, {"sliding_window": 8, **_WINDOWS}),
        _exaone4,
    ),
    Family("ArceeForCausalLM", A.ARCEE, ({}, _TIED), turned=True),
    Family(
        "ApertusForCausalLM", A.APERTUS, (_TURNS, _TURNS | _TIED), _apertus, _without_activation, {1: "tied"}
    ),
    Family(
        "AfmoeForCausalLM",
        A.AFMOE,
        (_SCALED, _SCALED | _TIED | {"route_scale": 2.5, "num_shared_experts": 1, "num_dense_layers": 2}),
        _afmoe,
        _named_bias,
    ),
    Family("NemotronForCausalLM", A.NEMOTRON, ({}, {"num_key_value_heads": 4}), _parted, _raised),
    Family("SeedOssForCausalLM", A.SEED_OSS, ({}, {"attention_bias": False}), alone={1: "no biases"}),
    Family("HunYuanDenseV1ForCausalLM", A.HUNYUAN_DENSE, ({}, _TIED), _hunyuan),
    Family("HunYuanMoEV1ForCausalLM", A.HUNYUAN_MOE, ({}, _TIED), _hunyuan),
    Family(
        "Glm4MoeForCausalLM",
        A.GLM4_MOE,
        ({}, _NORMS_BIASES | _GROUPS),
        _routed,
        _corrected,
    ),
    Family("Jais2ForCausalLM", A.JAIS2, ({}, {"num_key_value_heads": 4})),
    Family(
        "Ernie4_5_MoeForCausalLM", A.ERNIE4_5_MOE, ({}, {"moe_num_shared_experts": 1}), _ernie, _flattened
    ),
    Family("MiniMaxM2ForCausalLM", A.MINIMAXM2, ({}, {"rotary_dim": 8}), _minimax, _corrected),
    Family(
        "Dots1ForCausalLM",
        A.DOTS1,
        (_UNGROUPED, _UNGROUPED | _GROUPS | {"norm_topk_prob": True}),
        _routed,
        _corrected,
    ),
]
