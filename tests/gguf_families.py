"""Tiny models of every family as GGUF files, as llama.cpp's converter writes them from the same tensors.

Names of tensors and keys are those of the gguf package, which this writes with; what is done to a tensor on
the way (rows in pairs, experts stacked, 1 added to a gain) is what the converter does for that family.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from architecture_files import stored_tensors
from architecture_table import CASES, Case
from tiny_files import _llama_tokenizer_metadata
from tuili.loading.config import Config, hf_architecture

Tensors = dict[str, np.ndarray]
Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Family:
    """How a class of config.json becomes a GGUF architecture.

    tried     settings that are tried, on top of those of the class's first case
    settings  writes the keys that are this family's own
    turned    whether rows of query and key are stored as pairs
    raised    whether 1 is added to norms
    """

    architecture: str
    arch: gguf.MODEL_ARCH
    tried: tuple[Values, ...] = ({},)
    settings: Callable[[gguf.GGUFWriter, Values], None] = lambda writer, config: None
    turned: bool = False
    raised: bool = False

    def cases(self) -> Iterator[Case]:
        first = next(case for case in CASES if case.architecture == self.architecture)
        for number, settings in enumerate(self.tried):
            yield dataclasses.replace(first, config=first.config | settings, tries=f"{number}")


def _experts(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def _phi3(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_sliding_window(config.get("sliding_window") or 0)
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(int(head_dim * config.get("partial_rotary_factor", 1.0)))
    scaling, old = config.get("rope_scaling"), config.get("original_max_position_embeddings", 128)
    writer.add_rope_scaling_orig_ctx_len(old)
    if scaling is not None:
        factor = config["max_position_embeddings"] / old
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(factor) / np.log(old))))
        for kind in ("short", "long"):
            writer.add_tensor(f"rope_factors_{kind}.weight", np.array(scaling[f"{kind}_factor"], np.float32))


def _gemma2(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_attn_logit_softcapping(50.0)
    writer.add_final_logit_softcapping(30.0)
    writer.add_sliding_window(config["sliding_window"])


def _stablelm(writer: gguf.GGUFWriter, config: Values) -> None:
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(int(head_dim * config.get("partial_rotary_factor", 0.25)))
    writer.add_parallel_residual(config.get("use_parallel_residual", False))


def _olmo(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_layer_norm_eps(1e-5)
    if config.get("clip_qkv"):
        writer.add_clamp_kqv(config["clip_qkv"])


def _cohere(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_logit_scale(config["logit_scale"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    if "sliding_window" in config:
        writer.add_sliding_window(config["sliding_window"])


def _glm(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_rope_dimension_count(int(config["head_dim"] * config.get("partial_rotary_factor", 0.5)))


def _granite(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_attention_scale(config["attention_multiplier"])
    writer.add_embedding_scale(config["embedding_multiplier"])
    writer.add_residual_scale(config["residual_multiplier"])
    writer.add_logit_scale(config["logits_scaling"])


A = gguf.MODEL_ARCH
_TIED = {"tie_word_embeddings": True}
_LONG = {
    "original_max_position_embeddings": 32,
    "sliding_window": None,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0 + 0.25 * i for i in range(6)],
        "long_factor": [2.0 + 0.25 * i for i in range(6)],
    },
    "partial_rotary_factor": 0.75,
}
_NORMALIZED, _NO_WINDOW = {"norm_topk_prob": True}, {"sliding_window": None}
_NORMS_BIASES = {"qk_layernorm": True, "use_qkv_bias": True}
FAMILIES = [
    Family("LlamaForCausalLM", A.LLAMA, ({}, _TIED), turned=True),
    Family("MixtralForCausalLM", A.LLAMA, ({}, {"num_experts_per_tok": 3, **_TIED}), turned=True),
    Family("Qwen2ForCausalLM", A.QWEN2, ({}, _TIED)),
    Family("Qwen3ForCausalLM", A.QWEN3, ({}, _TIED)),
    Family("Qwen2MoeForCausalLM", A.QWEN2MOE, ({}, {"num_experts": 4, **_TIED}), _experts),
    Family("Qwen3MoeForCausalLM", A.QWEN3MOE, (_NORMALIZED, _NORMALIZED | _TIED), _experts),
    Family("Phi3ForCausalLM", A.PHI3, ({}, _LONG | _TIED), _phi3),
    Family("GemmaForCausalLM", A.GEMMA, ({}, {"num_key_value_heads": 1}), raised=True),
    Family("Gemma2ForCausalLM", A.GEMMA2, ({"query_pre_attn_scalar": 16},), _gemma2, raised=True),
    Family("SmolLM3ForCausalLM", A.SMOLLM3, ({}, {"tie_word_embeddings": False}), turned=True),
    Family("OlmoForCausalLM", A.OLMO, ({}, {"clip_qkv": 0.5, **_TIED}), _olmo, turned=True),
    Family("Olmo2ForCausalLM", A.OLMO2, ({}, {"num_key_value_heads": 2, **_TIED})),
    Family("GraniteForCausalLM", A.GRANITE, ({}, _TIED), _granite, turned=True),
    Family(
        "Starcoder2ForCausalLM",
        A.STARCODER2,
        (_NO_WINDOW, _NO_WINDOW | {"use_bias": False, "tie_word_embeddings": False}),
    ),
    Family(
        "StableLmForCausalLM",
        A.STABLELM,
        ({}, {"use_parallel_residual": True, **_NORMS_BIASES, "partial_rotary_factor": 0.5}),
        _stablelm,
    ),
    Family("GlmForCausalLM", A.CHATGLM, ({}, {"attention_bias": False, **_TIED}), _glm),
    Family("Glm4ForCausalLM", A.GLM4, ({}, {"attention_bias": False, "head_dim": 24}), _glm),
    Family("CohereForCausalLM", A.COMMAND_R, ({}, {"use_qk_norm": True}), _cohere),
    Family("Cohere2ForCausalLM", A.COHERE2, ({"num_hidden_layers": 4},), _cohere),
]


def _write_sizes(writer: gguf.GGUFWriter, config: Values) -> None:
    """What the converter writes for every model of text."""
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        if key in config:
            writer.add_expert_count(config[key])
            writer.add_expert_used_count(config["num_experts_per_tok"])


def _write_tokenizer(writer: gguf.GGUFWriter) -> None:
    values = _llama_tokenizer_metadata()
    writer.add_tokenizer_model(values["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(values["tokenizer.ggml.pre"])
    writer.add_token_list(values["tokenizer.ggml.tokens"])
    writer.add_token_types(values["tokenizer.ggml.token_type"])
    writer.add_token_merges(values["tokenizer.ggml.merges"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def _stacked(tensors: Tensors) -> Tensors:
    """Experts, and norms of single heads, that lie one by one, as one tensor each."""
    out: Tensors = {}
    groups: dict[str, list[np.ndarray]] = {}
    for name, x in tensors.items():
        number = re.search(r"(?<=experts)\.(\d+)(?=\.)|\.norms\.(\d+)(?=\.)", name)
        if number is None:
            out[name] = x
        else:  # in order, as they were made
            groups.setdefault(name[: number.start()] + name[number.end() :], []).append(x)
    return out | {name: np.stack(parts) for name, parts in groups.items()}


def _pairs(x: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of each head: halves side by side become pairs."""
    rows = x.reshape(n_heads, 2, len(x) // n_heads // 2, *x.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(x.shape)


def write(family: Family, case: Case, path: Path) -> Path:
    """The case as a GGUF file."""
    config = Config(dict(case.config), "config.json")
    _, module = hf_architecture(config)
    spec = module.spec(config)
    config_values = config.values | {"rms_norm_eps": spec.norm_eps}
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[family.arch])
    _write_sizes(writer, config_values)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_layer_norm_eps(spec.norm_eps)
    writer.add_rope_freq_base(_theta(case))
    family.settings(writer, config_values)
    _write_tokenizer(writer)
    names = gguf.get_tensor_name_map(family.arch, case.config["num_hidden_layers"])
    for name, x in _stacked(stored_tensors(case, config, module)).items():
        if family.turned and re.search(r"(q|k)_proj\.weight$", name):
            heads = "num_attention_heads" if "q_proj" in name else "num_key_value_heads"
            x = _pairs(x, config_values[heads])
        if family.raised and "norm" in name:
            x = x + np.float32(1)
        theirs = names.get_name(name, (".weight", ".bias"))
        assert theirs is not None, f"the gguf package has no name for {name}"
        writer.add_tensor(theirs, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


_THETAS = {"MixtralForCausalLM": 1e6, "SmolLM3ForCausalLM": 2e6, "CohereForCausalLM": 5e5}


def _theta(case: Case) -> float:
    """The base of rotations; where config.json is silent, the class's own."""
    return float(case.config.get("rope_theta", _THETAS.get(case.architecture, 10_000.0)))
