"""What the tensors of DeepSeek-V2 and V3 are called in folders, and which of them have biases."""

from __future__ import annotations

from tuili.loading.architectures import ATTENTION_BIASES, LLAMA_NAMES, MLP_BIASES, expert_names, without
from tuili.loading.config import Config
from tuili.loading.layout import Parts

_ATTENTION, _OURS = "model.layers.{i}.self_attn", "layers.{i}"
QUERY = Parts((f"{_OURS}.query_nope", f"{_OURS}.query_rope"), "heads")
LATENT = Parts((f"{_OURS}.latent", f"{_OURS}.key_rope"))
KEY_VALUE = Parts((f"{_OURS}.key_nope", f"{_OURS}.value"), "heads")
TENSOR_NAMES = (
    without(LLAMA_NAMES, "q_proj", "k_proj", "v_proj")
    | without(ATTENTION_BIASES, "q_proj", "k_proj", "v_proj")
    | MLP_BIASES
    | expert_names("model.layers.{i}.mlp", "gate_proj", "up_proj", "down_proj")
    | {
        f"{_ATTENTION}.q_proj.weight": QUERY,
        f"{_ATTENTION}.q_a_proj.weight": f"{_OURS}.query_in",
        f"{_ATTENTION}.q_a_proj.bias": f"{_OURS}.query_in.bias",
        f"{_ATTENTION}.q_a_layernorm.weight": f"{_OURS}.query_latent_norm",
        f"{_ATTENTION}.q_b_proj.weight": QUERY,
        f"{_ATTENTION}.kv_a_proj_with_mqa.weight": LATENT,
        f"{_ATTENTION}.kv_a_proj_with_mqa.bias": Parts((f"{_OURS}.latent.bias", f"{_OURS}.key_rope.bias")),
        f"{_ATTENTION}.kv_a_layernorm.weight": f"{_OURS}.latent_norm",
        f"{_ATTENTION}.kv_b_proj.weight": KEY_VALUE,
        "model.layers.{i}.mlp.gate.e_score_correction_bias": f"{_OURS}.selection_bias",
    }
    | {
        f"model.layers.{{i}}.mlp.{theirs}.{part}_proj.{kind}": f"{_OURS}.{ours}.{part}{end}"
        for theirs, ours in (("shared_experts", "shared"), ("experts.{e}", "experts.{e}"))
        for part in ("gate", "up", "down")
        for kind, end in (("weight", ""), ("bias", ".bias"))
    }
)
IGNORED_TENSORS = (
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    r"model\.layers\.\d+\.(eh_proj|enorm|hnorm|embed_tokens|shared_head\.\w+)\.weight",  # guesses ahead
)


def mlp_bias(config: Config) -> bool:
    """Whether the MLPs of V2 and MiniCPM 3 have biases; the others do not read the setting."""
    if config.values["architectures"] not in (["DeepseekV2ForCausalLM"], ["MiniCPM3ForCausalLM"]):
        config.ignore("mlp_bias", False)
        return False
    return bool(config.flag("mlp_bias", False))


def constants(config: Config) -> dict[str, float]:
    """Experts whose tensors are stacked, as in transformers 5, have no biases where other MLPs have them."""
    return {r"layers\.\d+\.experts\.\d+\.\w+\.bias": 0.0} if mlp_bias(config) else {}
